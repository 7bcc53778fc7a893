"""`predict` on what `embed` wrote, as SUPPORT, as QUERIES and as both: the rows of the photos themselves."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from photo_folders import write_bad_files, write_labelled, write_pile

from fewsight.errors import InvalidInput
from fewsight.workflows import pile as pile_module
from fewsight.workflows.embed import embed
from fewsight.workflows.predict import PredictionRun, predict

PHOTOS: dict[str, Any] = {
    "backbone": "fewsight-bundled",
    "image_size": 64,
    "quiet": True,
    "device": "cpu",
    "precision": "fp32",
}
QUIET: dict[str, Any] = {"quiet": True, "device": "cpu"}
EMBED: dict[str, Any] = {"batch_size": 2, "shard_size": 4, **PHOTOS}
NUMBERS = ("score", "runner_up_score", "margin", "novelty")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Labelled photos, and a pile with bad files and a copy of a labelled photo."""
    labelled, pile = write_labelled(tmp_path / "labelled"), write_pile(tmp_path / "pile")
    write_bad_files(pile)
    shutil.copy(labelled / "dots" / "1.png", pile / "a copy.png")
    return labelled, pile


def rows(run: PredictionRun) -> list[dict[str, str]]:
    with (run.folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def assert_same(found: list[dict[str, str]], expected: list[dict[str, str]]) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        for column, value in theirs.items():
            if column in NUMBERS and value:
                # batches of other sizes sum in another order
                assert float(mine[column]) == pytest.approx(float(value), abs=2e-4), (mine["file"], column)
            else:
                assert mine[column] == value, (mine["file"], column)


@pytest.mark.parametrize("embedded", [(True, False), (False, True), (True, True)])
def test_rows_are_those_of_the_photos(
    folders: tuple[Path, Path], tmp_path: Path, embedded: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = predict(*folders, tmp_path / "direct", reject=0.2, **PHOTOS)
    given = []
    for name, folder, is_embedded in zip(("S", "Q"), folders, embedded, strict=True):
        if is_embedded:
            embed(folder, tmp_path / name, **EMBED)
        given.append(tmp_path / name if is_embedded else folder)
    if embedded[1]:
        monkeypatch.setattr(pile_module, "encode_photos", None)  # no photo of the pile is encoded again
    run = predict(given[0], given[1], tmp_path / "run", reject=0.2, **QUIET)
    assert_same(rows(run), rows(direct))
    statuses = {row["file"]: row["status"] for row in rows(run)}
    assert statuses["a copy.png"] == "duplicate"
    assert run.expected == direct.expected
    assert "data:image" in (run.folder / "report.html").read_text(encoding="utf-8")
    again = (
        predict(run.folder / "model", folders[1], tmp_path / "again", **QUIET) if not embedded[1] else None
    )
    if again is not None:
        assert {row["label"] for row in rows(again)} == {row["label"] for row in rows(direct)}


def test_photos_may_be_gone(folders: tuple[Path, Path], tmp_path: Path) -> None:
    direct = rows(predict(*folders, tmp_path / "direct", **PHOTOS))
    for name, folder in zip(("S", "Q"), folders, strict=True):
        embed(folder, tmp_path / name, **EMBED)
        shutil.rmtree(folder)
    run = predict(tmp_path / "S", tmp_path / "Q", tmp_path / "run", **QUIET)
    found = rows(run)
    assert "same features" in next(row["note"] for row in found if row["file"] == "a copy.png")
    for row in (*found, *direct):  # what tells a copy differs: its bytes, or its features
        row["note"] = "" if row["status"] == "duplicate" else row["note"]
    assert_same(found, direct)
    with pytest.raises(InvalidInput, match="--sort-into needs the photos"):
        predict(tmp_path / "S", tmp_path / "Q", tmp_path / "sorted", sort_into=tmp_path / "into", **QUIET)
    # the model answers photos and features alike
    stored = predict(run.folder / "model", tmp_path / "Q", tmp_path / "stored", **QUIET)
    for row, before in zip(rows(stored), found, strict=True):
        assert before["status"] == "duplicate" or row == before


def test_labels_from_a_csv(folders: tuple[Path, Path], tmp_path: Path) -> None:
    embed(folders[1], tmp_path / "Q", **EMBED)
    table = tmp_path / "labels.csv"
    table.write_text("image,label\ndots-0.png,round\npile/stripes-0.png,long\nabsent.png,long\n")
    run = predict(tmp_path / "Q", tmp_path / "Q", tmp_path / "run", labels=table, **QUIET)
    assert run.counts["duplicate"] == 2
    assert any("absent.png" in remark for remark in run.remarks)
    # a corrected predictions.csv names photos of the pile, whose features are at hand
    corrected = run.folder / "predictions.csv"
    shutil.rmtree(folders[1])
    second = predict(corrected, tmp_path / "Q", tmp_path / "second", **QUIET)
    assert {row["label"] for row in rows(second)} <= {"round", "long", ""}
    table.write_text("image,label\nabsent.png,long\n")
    with pytest.raises(InvalidInput, match="labels no photo"):
        predict(tmp_path / "Q", tmp_path / "Q", tmp_path / "third", labels=table, **QUIET)
    with pytest.raises(InvalidInput, match="--labels belongs to"):
        predict(corrected, tmp_path / "Q", tmp_path / "third", labels=table, **QUIET)


def test_two_backbones_are_refused_by_name(folders: tuple[Path, Path], tmp_path: Path) -> None:
    embed(folders[0], tmp_path / "S", **EMBED)
    embed(folders[1], tmp_path / "Q", **(EMBED | {"image_size": 96}))
    both = r"fewsight-bundled at 64 x 64 px.*fewsight-bundled at 96 x 96 px"
    with pytest.raises(InvalidInput, match=both):
        predict(tmp_path / "S", tmp_path / "Q", tmp_path / "run", **QUIET)
    with pytest.raises(InvalidInput, match=both):
        predict(
            tmp_path / "S",
            folders[1],
            tmp_path / "run",
            force=True,
            image_size=96,
            backbone="fewsight-bundled",
            **QUIET,
        )
    model = predict(*folders, tmp_path / "photos", **PHOTOS).folder / "model"
    with pytest.raises(InvalidInput, match=both):
        predict(model, tmp_path / "Q", tmp_path / "run", force=True, **QUIET)
    with pytest.raises(InvalidInput, match="patch tokens"):
        predict(tmp_path / "S", folders[1], tmp_path / "run", force=True, head="crosstransformer", **QUIET)
    (tmp_path / "S" / "features-00001.safetensors").unlink()
    with pytest.raises(InvalidInput, match="shard 1 is missing"):
        predict(tmp_path / "S", folders[1], tmp_path / "run", force=True, **QUIET)


def test_features_of_an_unknown_backbone(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for name, folder in zip(("S", "Q"), folders, strict=True):
        embed(folder, tmp_path / name, **EMBED)
        record = yaml.safe_load((tmp_path / name / "run.yaml").read_text())
        record["settings"]["backbone"], record["data"]["features"] = "elsewhere", "0123"
        (tmp_path / name / "run.yaml").write_text(yaml.safe_dump(record))
    run = predict(tmp_path / "S", tmp_path / "Q", tmp_path / "run", **QUIET)
    assert any("takes features alone" in remark for remark in run.remarks)
    told = json.loads((run.folder / "model" / "model.json").read_text())
    assert told["backbone"] is None
    assert told["provenance"]["features_of"]["name"] == "elsewhere"
    again = predict(run.folder / "model", tmp_path / "Q", tmp_path / "again", **QUIET)
    assert [row["score"] for row in rows(again)] == [row["score"] for row in rows(run)]
    with pytest.raises(InvalidInput, match="takes features of elsewhere"):
        predict(run.folder / "model", folders[1], tmp_path / "photos", **QUIET)


def test_killed_run_resumes_to_the_same_bytes(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewsight.workflows import predict as module

    monkeypatch.setattr(module, "PART", 5)
    embed(folders[1], tmp_path / "Q", **EMBED)
    whole = predict(folders[0], tmp_path / "Q", tmp_path / "whole", **QUIET)
    append = module.PartFile.append

    def dying(self: Any, part: Any) -> None:
        append(self, part)
        raise KeyboardInterrupt

    monkeypatch.setattr(module.PartFile, "append", dying)
    with pytest.raises(KeyboardInterrupt):
        predict(folders[0], tmp_path / "Q", tmp_path / "broken", **QUIET)
    monkeypatch.setattr(module.PartFile, "append", append)
    resumed = predict(folders[0], tmp_path / "Q", tmp_path / "broken", resume=True, **QUIET)
    for name in ("predictions.csv", "predictions.jsonl"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()
