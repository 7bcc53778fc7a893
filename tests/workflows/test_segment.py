"""`segment` as its user calls it: one row a photo, masks at the original size, past every bad file, resumed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
from photo_folders import write_bad_files
from PIL import Image

from fewsight.data.scenes import Scenes
from fewsight.errors import InvalidInput, RunExists
from fewsight.segmenter import FewShotSegmenter
from fewsight.workflows import segment_files as module
from fewsight.workflows.segment import segment
from fewsight.workflows.segment_files import place_of

SCENES = Scenes(seed=0, size=96, objects=(1, 1))
SETTINGS: dict[str, Any] = {
    "backbone": "fewsight-bundled",
    "image_size": 128,
    "quiet": True,
    "device": "cpu",
    "precision": "fp32",
    "workers": 0,
}
FILES = {"photos.csv", "areas.csv", "classes.csv", "segments.json", "report.html", "run.yaml", "masks", "overlays",
         "model", "answers.jsonl", "foreground"}  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path / "cache"))
    labelled, pile = tmp_path / "labelled", tmp_path / "pile"
    (pile / "deep").mkdir(parents=True)
    for number, name in enumerate(("one", "two")):
        (labelled / name).mkdir(parents=True)
        for shot in range(2):
            scene = SCENES.scene(shot, include=(SCENES.classes[number],))
            Image.fromarray(scene.image).save(labelled / name / f"{shot}.png")
            mask = (scene.mask == SCENES.classes[number] + 1).astype(numpy.uint8) * 255
            if shot == 0:
                Image.fromarray(mask).save(labelled / name / f"{shot}_mask.png")
        scene = SCENES.scene(20, include=(SCENES.classes[number],))
        Image.fromarray(scene.image).resize((120, 80)).save(pile / "deep" / f"{name}.png")
    return labelled, pile


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# pycocotools' own call of numpy
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_files_agree_with_one_another(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from pycocotools import mask as coco

    run = segment(*folders, tmp_path / "run", **SETTINGS)
    assert {path.name for path in run.folder.iterdir() if path.name[0] != "."} == FILES
    photos, areas = table(run.folder / "photos.csv"), table(run.folder / "areas.csv")
    assert [row["file"] for row in photos] == ["deep/one.png", "deep/two.png"]
    assert photos[0]["mask"] == "masks/deep/one.png.png"
    assert table(run.folder / "classes.csv") == [{"index": "1", "name": "one"}, {"index": "2", "name": "two"}]
    assert "2 of 4 labelled photos came with a mask." in run.remarks
    told = json.loads((run.folder / "segments.json").read_text(encoding="utf-8"))
    drawn = {(a["image_id"], a["category_id"]): coco.decode(a["segmentation"]) for a in told["annotations"]}
    found = False
    for number, row in enumerate(photos, start=1):
        with Image.open(run.folder / row["mask"]) as image:
            assert (image.mode, image.size) == ("P", (120, 80))
            labels = numpy.array(image)
        with Image.open(run.folder / "overlays" / f"{row['file']}.jpg") as overlay:
            assert overlay.size == (120, 80)
        found |= bool(labels.any())
        for k, area in enumerate([a for a in areas if a["file"] == row["file"]]):
            assert float(area["area_fraction"]) == pytest.approx((labels == k + 1).mean(), abs=1e-5)
            assert float(area["presence"]) > 0.5 or not (labels == k + 1).any()
            mine = drawn.get((number, k + 1), numpy.zeros((80, 120)))
            assert numpy.array_equal(mine.astype(bool), labels == k + 1)
    assert found


def test_every_bad_file_has_its_row(folders: tuple[Path, Path], tmp_path: Path) -> None:
    expected = write_bad_files(folders[1])
    (folders[1] / f"{'l' * 251}.png").write_bytes((folders[1] / "deep" / "one.png").read_bytes())
    (folders[1] / "same.png").write_bytes((folders[0] / "one" / "0.png").read_bytes())
    run = segment(*folders, tmp_path / "run", **SETTINGS)
    rows = {row["file"]: row for row in table(run.folder / "photos.csv")}
    for name, status in expected.items():
        row = rows[name.decode("utf-8", "backslashreplace")]
        assert row["status"] == status, name
        assert bool(row["mask"]) == (status == "ok"), name
        assert status == "ok" or row["note"], name
    assert all((run.folder / row["mask"]).is_file() for row in rows.values() if row["mask"])
    assert rows["same.png"]["status"] == "duplicate"
    assert "one/0.png" in rows["same.png"]["note"]
    assert len(Path(rows["l" * 251 + ".png"]["mask"]).name) == 200 + 8 + 4
    assert "<script>alert(1)" not in (run.folder / "report.html").read_text(encoding="utf-8")


def test_a_killed_run_goes_on_and_a_finished_one_is_kept(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = segment(*folders, tmp_path / "whole", **SETTINGS)
    write = module.write_mask

    def killed(path: Path, *rest: Any) -> None:
        if path.name == "two.png.png":
            raise KeyboardInterrupt
        write(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_mask", killed)
        with pytest.raises(KeyboardInterrupt):
            segment(*folders, tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run" / "photos.csv").exists()
    run = segment(*folders, tmp_path / "run", resume=True, **SETTINGS)
    for name in ("photos.csv", "areas.csv", "segments.json"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    with pytest.raises(RunExists):
        segment(*folders, run.folder, **SETTINGS)
    assert segment(*folders, run.folder, resume=True, **SETTINGS).counts == {"ok": 2}


def test_the_model_answers_as_the_run_did(folders: tuple[Path, Path], tmp_path: Path) -> None:
    run = segment(*folders, tmp_path / "run", **SETTINGS)
    again = segment(run.folder / "model", folders[1], tmp_path / "again", **SETTINGS)
    assert (again.folder / "segments.json").read_bytes() == (run.folder / "segments.json").read_bytes()
    assert FewShotSegmenter.load(run.folder / "model").classes_.tolist() == ["one", "two"]


def test_names_stay_below_their_folder() -> None:
    assert place_of(Path("m"), "../../x.jpg", ".png") == Path("m/_/_/x.jpg.png")
    assert place_of(Path("m"), "/etc/x.jpg", ".png") == Path("m/_/etc/x.jpg.png")
    long = place_of(Path("m"), "é" * 126 + ".jpg", ".png").name
    assert len(long.encode()) == 200 + 8 + 4
    assert long != place_of(Path("m"), "é" * 126 + ".png", ".png").name


def test_other_thresholds_are_decided_without_the_photos(folders: tuple[Path, Path], tmp_path: Path) -> None:
    labelled, pile = folders
    run = segment(labelled, pile, tmp_path / "run", **SETTINGS)
    same = segment(run.folder, None, tmp_path / "same", quiet=True)
    for name in ("photos.csv", "areas.csv", "segments.json"):
        assert (run.folder / name).read_text() == (same.folder / name).read_text(), name
    shutil.rmtree(pile)
    fewer = segment(run.folder, None, tmp_path / "fewer", threshold=0.9, presence_threshold=0.2, quiet=True)
    assert "no longer where they were" in " ".join(fewer.remarks)
    assert not (fewer.folder / "overlays").exists()
    areas = [
        sum(float(row["area_fraction"]) for row in table(folder / "areas.csv"))
        for folder in (run.folder, fewer.folder)
    ]
    assert areas[0] != areas[1]
    assert (fewer.folder / "report.html").is_file()
    with pytest.raises(InvalidInput, match="threshold is 2"):
        segment(run.folder, None, tmp_path / "wrong", threshold=2, quiet=True)
    with pytest.raises(InvalidInput, match="not a finished run"):
        segment(labelled, None, tmp_path / "none", quiet=True)


def test_photos_in_parts(folders: tuple[Path, Path], tmp_path: Path) -> None:
    run = segment(*folders, tmp_path / "run", tiles=2, **SETTINGS)
    rows = table(run.folder / "photos.csv")
    decoded = [row for row in rows if row["mask"]]
    assert decoded
    for row in decoded:
        with Image.open(run.folder / row["mask"]) as mask:
            assert min(mask.size) > 0
    with pytest.raises(InvalidInput, match="tiles is 0"):
        segment(*folders, tmp_path / "wrong", tiles=0, **SETTINGS)
