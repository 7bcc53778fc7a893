"""What other tools read: rows as Label Studio tasks, for Timelapse, and as Parquet."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pytest

from fewsight.data.layouts import read_layout
from fewsight.errors import InvalidInput
from fewsight.predictions import Prediction
from fewsight.workflows.prediction_exports import EXPORTS, ExportFacts, check_exports, export_rows

NAMES = ("a.jpg", "station 1/day 2/рысь & Co #2?.jpg", "lost.jpg", "none.jpg")
ROWS = [
    Prediction(
        NAMES[0], "ok", label='fox "red"', score=0.75, runner_up="owl", runner_up_score=0.25, novelty=-0.5
    ),
    Prediction(NAMES[1], "suspicious", "grey tail", label="owl", score=1 / 3, labels=("owl", 'fox "red"')),
    Prediction(NAMES[2], "unreadable", "truncated"),
    Prediction(
        NAMES[3], "rejected", "none of these; nearest is owl", label="owl", score=0.9, truth=("hare",)
    ),
]
FACTS = ExportFacts(('fox "red"', "owl"), "fewsight 1 test", Path("/photos/pile"))


def test_label_studio_gets_predictions_and_never_annotations(tmp_path: Path) -> None:
    tasks, config = export_rows("label-studio", ROWS, FACTS, tmp_path)
    told: list[dict[str, Any]] = json.loads(tasks.read_text(encoding="utf-8"))
    assert [parse_qs(urlsplit(task["data"]["image"]).query)["d"][0] for task in told] == list(NAMES)
    assert not any("annotations" in task or "completions" in task for task in told)
    said = [task["predictions"] for task in told]
    assert said[0][0]["score"] == 0.75
    assert said[0][0]["model_version"] == "fewsight 1 test"
    assert said[1][0]["result"][0]["value"] == {"choices": ["owl", 'fox "red"']}
    assert said[2] == said[3] == []
    assert told[3]["data"]["status"] == "rejected"
    choices = ElementTree.fromstring(config.read_text(encoding="utf-8"))
    assert [choice.get("value") for choice in choices.iter("Choice")] == list(FACTS.classes)
    assert {said[0][0]["result"][0][key] for key in ("from_name", "to_name")} <= {
        node.get("name") for node in choices.iter()
    }


def test_read_again_they_are_photos_without_labels(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / "pile" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pile" / name).write_bytes(b"photo")
    tasks, _ = export_rows("label-studio", ROWS, FACTS, tmp_path)
    reading = read_layout(tasks, labels="optional", root=tmp_path / "pile")
    assert sorted(photo.file for photo in reading.collection) == sorted(NAMES)
    assert not any(photo.labels for photo in reading.collection)
    # confirmed by a person, the same tasks are labels
    told = json.loads(tasks.read_text(encoding="utf-8"))
    told[0]["annotations"] = [{"result": told[0]["predictions"][0]["result"]}]
    tasks.write_text(json.dumps(told), encoding="utf-8")
    confirmed = read_layout(tasks, root=tmp_path / "pile").collection
    assert [(photo.file, photo.labels) for photo in confirmed] == [("a.jpg", ('fox "red"',))]


def test_timelapse_finds_each_photo_by_folder_and_file(tmp_path: Path) -> None:
    (path,) = export_rows("timelapse", ROWS, FACTS, tmp_path)
    with path.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["RootFolder"], row["RelativePath"], row["File"]) for row in table[:2]] == [
        ("pile", "", "a.jpg"),
        ("pile", "station 1\\day 2", "рысь & Co #2?.jpg"),
    ]
    assert [row["Label"] for row in table] == ['fox "red"', "owl", "", ""]
    assert [row["Score"] for row in table] == ["0.75", "0.333333", "", ""]
    for name in NAMES:
        (tmp_path / "pile" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pile" / name).write_bytes(b"photo")
    again = read_layout(path, root=tmp_path / "pile").collection
    assert [(photo.file, photo.labels) for photo in again] == [
        (NAMES[0], ('fox "red"',)),
        (NAMES[1], ("owl",)),
    ]


def test_parquet_holds_every_row_and_reads_as_labels(tmp_path: Path) -> None:
    from pyarrow import parquet

    (path,) = export_rows("parquet", ROWS, FACTS, tmp_path)
    told = parquet.read_table(path).to_pylist()
    assert [row["file"] for row in told] == list(NAMES)
    assert [row["label"] for row in told] == ['fox "red"', "owl", None, None]
    assert told[0]["margin"] == 0.5
    assert told[3]["truth"] == ["hare"]
    for name in NAMES[:2]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"photo")
    again = read_layout(path, root=tmp_path).collection
    assert [photo.labels for photo in again] == [('fox "red"',), ("owl", 'fox "red"')]


@pytest.mark.parametrize("name", list(EXPORTS))
def test_no_rows_are_valid_files(tmp_path: Path, name: str) -> None:
    written = export_rows(name, [], FACTS, tmp_path)
    assert all(path.stat().st_size for path in written)


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(InvalidInput, match="Did you mean label-studio"):
        check_exports(["labelstudio"])
