"""`predict` as its user calls it: one row a photo, past every bad file, resumed, corrected, saved, sorted."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from photo_folders import CLASSES, write_bad_files, write_labelled, write_pile

from fewsight.errors import FewsightError, InvalidInput, RunExists
from fewsight.workflows import predict as module
from fewsight.workflows.predict import PredictionRun, predict
from fewsight.workflows.prediction_files import COLUMNS

SETTINGS = {
    "backbone": "fewsight-bundled",
    "image_size": 64,
    "quiet": True,
    "device": "cpu",
    "precision": "fp32",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write_labelled(tmp_path / "labelled"), write_pile(tmp_path / "pile")


def rows(run: PredictionRun) -> list[dict[str, str]]:
    with (run.folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_right_answers_in_input_order(folders: tuple[Path, Path], tmp_path: Path) -> None:
    run = predict(*folders, tmp_path / "run", **SETTINGS)  # type: ignore[arg-type]
    table = rows(run)
    assert tuple(table[0]) == COLUMNS
    assert [row["file"] for row in table] == sorted(path.name for path in folders[1].iterdir())
    assert all(row["label"] == row["file"].split("-")[0] for row in table)
    for row in table:
        assert 0 <= float(row["runner_up_score"]) <= float(row["score"]) <= 1
        assert float(row["margin"]) == pytest.approx(
            float(row["score"]) - float(row["runner_up_score"]), abs=1e-5
        )
    lines = [
        json.loads(line)
        for line in (run.folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [line["file"] for line in lines] == [row["file"] for row in table]
    assert set(lines[0]["probabilities"]) == set(CLASSES)
    assert (run.folder / "report.html").stat().st_size > 10_000
    assert run.expected.n == 9


def test_every_bad_file_has_its_row(folders: tuple[Path, Path], tmp_path: Path) -> None:
    expected = write_bad_files(folders[1])
    run = predict(*folders, tmp_path / "run", **SETTINGS)  # type: ignore[arg-type]
    table = {row["file"]: row for row in rows(run)}
    for name, status in expected.items():
        try:
            shown = name.decode()
        except UnicodeDecodeError:
            shown = r"not-utf8-\xff\xfe.jpg"
        assert table[shown]["status"] == status, shown
        assert bool(table[shown]["label"]) == (status == "ok")
        assert status == "ok" or table[shown]["note"]
    assert "UTF-8" in table[r"not-utf8-\xff\xfe.jpg"]["note"]
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page


@pytest.mark.parametrize("killed_after", [1, 2])
def test_killed_run_resumes_to_the_same_bytes(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    monkeypatch.setattr(module, "PART", 5)
    whole = predict(*folders, tmp_path / "whole", **SETTINGS)  # type: ignore[arg-type]
    append, parts = module.PartFile.append, []

    def dying(self: object, part: object) -> None:
        parts.append(part)
        append(self, part)  # type: ignore[arg-type]
        if len(parts) == killed_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.PartFile, "append", dying)
    with pytest.raises(KeyboardInterrupt):
        predict(*folders, tmp_path / "broken", **SETTINGS)  # type: ignore[arg-type]
    monkeypatch.setattr(module.PartFile, "append", append)
    part = tmp_path / "broken" / "predictions.part.jsonl"
    part.write_bytes(part.read_bytes() + b'{"file": "half a li')  # what a kill within a write leaves
    resumed = predict(*folders, tmp_path / "broken", resume=True, **SETTINGS)  # type: ignore[arg-type]
    for name in ("predictions.csv", "predictions.jsonl"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_resume_refuses_another_run_and_out_is_never_overwritten(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    predict(*folders, tmp_path / "run", **SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(RunExists, match="--resume"):
        predict(*folders, tmp_path / "run", **SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"--reject was None, now 0\.1"):
        predict(*folders, tmp_path / "run", resume=True, reject=0.1, **SETTINGS)  # type: ignore[arg-type]
    forced = predict(*folders, tmp_path / "run", force=True, reject=0.1, **SETTINGS)  # type: ignore[arg-type]
    assert len(forced.rows) == 12


def test_model_folder_answers_without_the_support(folders: tuple[Path, Path], tmp_path: Path) -> None:
    first = predict(*folders, tmp_path / "run", **SETTINGS)  # type: ignore[arg-type]
    shutil.rmtree(folders[0])
    again = predict(tmp_path / "run" / "model", folders[1], tmp_path / "again", **SETTINGS)  # type: ignore[arg-type]
    assert [row["label"] for row in rows(again)] == [row["label"] for row in rows(first)]


def test_corrected_predictions_are_a_support(folders: tuple[Path, Path], tmp_path: Path) -> None:
    first = predict(*folders, tmp_path / "run", **SETTINGS)  # type: ignore[arg-type]
    table = rows(first)
    kept = [
        row | {"label": "mine" if row["label"] == "dots" else row["label"]}
        for row in table
        if "-3" not in row["file"]
    ]
    path = first.folder / "predictions.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)
    second = predict(path, folders[1], tmp_path / "second", **SETTINGS)  # type: ignore[arg-type]
    answers = {row["file"]: row for row in rows(second)}
    assert answers["dots-3.png"]["label"] == "mine"
    assert answers["stripes-3.png"]["label"] == "stripes"
    assert answers["dots-0.png"]["status"] == "duplicate"


def test_copies_of_support_photos_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from PIL import Image

    shutil.copy(folders[0] / "dots" / "0.png", folders[1] / "same.png")
    with Image.open(folders[0] / "stripes" / "1.png") as picture:
        picture.convert("RGB").save(folders[1] / "saved again.jpg", quality=80)
    table = {row["file"]: row for row in rows(predict(*folders, tmp_path / "run", **SETTINGS))}  # type: ignore[arg-type]
    assert table["same.png"]["status"] == "duplicate"
    assert "dots/0.png" in table["same.png"]["note"]
    assert table["saved again.jpg"]["status"] == "duplicate"
    assert "stripes/1.png" in table["saved again.jpg"]["note"]
    assert sum(row["status"] == "duplicate" for row in table.values()) == 2


def test_truth_and_sorting(folders: tuple[Path, Path], tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text(
        "image,labels\n" + "".join(f"{p.name},{p.name.split('-')[0]}\n" for p in folders[1].iterdir())
    )
    run = predict(*folders, tmp_path / "run", truth=truth, sort_into=tmp_path / "sorted", **SETTINGS)  # type: ignore[arg-type]
    assert run.accuracy is not None
    assert (run.accuracy.mean, run.accuracy.n) == (1.0, 12)
    assert len(list((tmp_path / "sorted").rglob("*.png"))) == 12
    with pytest.raises(InvalidInput, match="not empty"):
        predict(*folders, tmp_path / "run2", sort_into=tmp_path / "sorted", **SETTINGS)  # type: ignore[arg-type]


def test_coverage_gives_label_sets(folders: tuple[Path, Path], tmp_path: Path) -> None:
    run = predict(*folders, tmp_path / "run", coverage=0.8, **SETTINGS)  # type: ignore[arg-type]
    for row in run.rows:  # a set is what lies above a bar, so it holds the best label or nothing
        assert row.label_set is not None
        assert not row.label_set or row.label in row.label_set
    assert any(row.label_set for row in run.rows)


def test_input_that_cannot_work_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FewsightError, match="nothing"):
        predict(tmp_path / "nothing", folders[1], tmp_path / "a", **SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(FewsightError, match="missing"):
        predict(folders[0], tmp_path / "missing", tmp_path / "b", **SETTINGS)  # type: ignore[arg-type]
    (folders[0] / "empty class").mkdir()
    with pytest.raises(FewsightError, match="empty class"):
        predict(*folders, tmp_path / "c", **SETTINGS)  # type: ignore[arg-type]
    assert len(predict(*folders, tmp_path / "d", skip_empty=True, **SETTINGS).rows) == 12  # type: ignore[arg-type]


@pytest.mark.parametrize("shots", [1, 3])
def test_one_class_and_one_shot(tmp_path: Path, shots: int) -> None:
    support = write_labelled(tmp_path / "labelled", shots, ("dots",))
    pile = write_pile(tmp_path / "pile")
    run = predict(support, pile, tmp_path / "run", reject=0.25, **SETTINGS)  # type: ignore[arg-type]
    assert {row.label for row in run.rows} == {"dots"}
    rejected = [row.file.split("-")[0] for row in run.rows if row.status == "rejected"]
    if shots == 1:  # nothing is promised, so nothing is rejected
        assert not rejected
    else:
        assert rejected.count("stripes") == rejected.count("plain") == 4
        assert rejected.count("dots") < 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_a_sentence(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(FewsightError, match="may not write"):
        predict(*folders, tmp_path / "locked" / "run", **SETTINGS)  # type: ignore[arg-type]
