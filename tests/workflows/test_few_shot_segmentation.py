"""`evaluate` of dense heads: any folder with masks, and a published benchmark on a fabricated folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from fewsight.data.fscs_episodes import published_fscs_episode
from fewsight.data.scene_folder import write_scenes
from fewsight.data.splits import pascal5i_images
from fewsight.errors import InvalidInput
from fewsight.workflows.evaluate import evaluate

SETTINGS: dict[str, Any] = {"image_size": 64, "workers": 0, "quiet": True, "backbone": "fewsight-bundled"}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path_factory.getbasetemp() / "dense cache"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), base=40, novel=0, size=64, num_classes=12)


def run(data: Path, **options: Any) -> Any:
    protocol = options.pop("protocol", "few-shot-segmentation")
    return evaluate(data, protocol=protocol, shots=(1,), **{"episodes": 5, **SETTINGS, **options})


def metrics(found: Any) -> dict[tuple[int | None, str], float]:
    return {(result.way, result.metric): result.value.mean for result in found.results}


def test_any_folder_with_masks_is_a_benchmark(scenes: Path) -> None:
    found = run(scenes, fold=0)
    told = metrics(found)
    for way in (1, 2):
        assert 0 <= told[way, "exact ratio"] <= 1
        assert 0 <= told[way, "mIoU"] <= 1
        assert (way, "mIoU of always present, whole image") in told
        assert (way, "mIoU of prototypes of patches") in told
    assert any("the best level on these episodes" in metric for _, metric in told)
    assert found.comparisons
    assert found.episodes == 5
    assert any(remark.startswith("Fold 0 of 4: ") for remark in found.remarks)
    again = run(scenes, fold=0)
    assert metrics(again) == told


def test_masks_of_supports_and_special_cases(scenes: Path) -> None:
    where = metrics(run(scenes, fold=1, way=1, supports="masks", episode_task="fs-s"))
    assert (1, "mIoU") in where
    assert (1, "exact ratio") not in where
    what = metrics(run(scenes, fold=1, way=2, episode_task="fs-c", episodes=3))
    assert (2, "accuracy") in what
    assert (2, "mIoU") not in what


def test_all_folds_are_averaged_and_heads_compared(scenes: Path) -> None:
    found = run(scenes, way=1, episodes=2, against="correspondence")
    assert found.episodes == 8
    with pytest.raises(InvalidInput, match="expected a folder of `metatrain --head cst`"):
        run(scenes, head="nothing")
    with pytest.raises(InvalidInput, match="leave --split out"):
        run(scenes, split="train")


def test_without_masks_there_is_nothing_to_judge(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "a" / "1.png")
    with pytest.raises(InvalidInput, match="no photo has a mask"):
        run(tmp_path)


def test_the_published_rows_stand_beside_ours(tmp_path: Path) -> None:
    """Only the photos of the episodes are real; all others are listed and empty."""
    images, masks = tmp_path / "JPEGImages", tmp_path / "SegmentationClassAug"
    images.mkdir()
    masks.mkdir()

    def stem(image: int) -> str:
        return f"{image // 1_000_000}_{image % 1_000_000:06d}"

    lines, classes = pascal5i_images("val", 1)
    for image in lines.tolist():
        (images / f"{stem(image)}.jpg").touch()
        (masks / f"{stem(image)}.png").touch()
    listed = dict(zip(lines.tolist(), classes.tolist(), strict=True))
    generator = numpy.random.default_rng(0)
    for index in range(3):
        episode = published_fscs_episode(index, benchmark="pascal", fold=1, way=1, shot=1)
        for image in (episode.query, *episode.support.flatten().tolist()):
            pixels = generator.integers(0, 255, (40, 48, 3)).astype(numpy.uint8)
            Image.fromarray(pixels).save(images / f"{stem(image)}.jpg")
            mask = numpy.zeros((40, 48), dtype=numpy.uint8)
            mask[5:30, 8:40], mask[4, 8:40] = listed[image], 255
            Image.fromarray(mask).save(masks / f"{stem(image)}.png")
    found = run(tmp_path, protocol="pascal-5i", fold=1, way=1, episodes=3)
    told = " ".join(found.remarks)
    assert "CST (image labels, DINO ViT-S/8): exact ratio 79.9 %, mIoU 33.2 %" in told
    assert "CST (pixel labels, DINO ViT-S/8): exact ratio 85.7 %, mIoU 55.5 %" in told
    assert "ours differ" in told
    assert (1, "FB-IoU") in metrics(found)
    with pytest.raises(InvalidInput, match="not laid out as coco-20i"):
        run(tmp_path, protocol="coco-20i")
