"""Readers of the published benchmarks on fabricated folders of the official layouts."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from PIL import Image

from fewsight.data.fscs_benchmarks import find_benchmark, read_benchmark
from fewsight.data.fscs_episodes import published_fscs_episode
from fewsight.data.splits import class_split, coco20i_images, pascal5i_images
from fewsight.errors import InvalidInput


@pytest.fixture
def pascal(tmp_path: Path) -> Path:
    """VOC2012 with an empty file for every listed photo and a real one for the first."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClassAug"):
        (root / name).mkdir(parents=True)
    for part in ("train", "val"):
        for fold in range(4):
            for image in pascal5i_images(part, fold)[0].tolist():
                stem = f"{image // 1_000_000}_{image % 1_000_000:06d}"
                (root / "JPEGImages" / f"{stem}.jpg").touch()
                (root / "SegmentationClassAug" / f"{stem}.png").touch()
    return root


def test_pascal_folds_and_episodes(pascal: Path) -> None:
    assert find_benchmark(pascal.parents[1]) == ("pascal-5i", pascal)
    for fold, photos, trained in ((0, 345, 15), (1, 433, 15), (2, 587, 15), (3, 326, 15)):
        found = read_benchmark(pascal, "pascal-5i", fold=fold)
        assert len(found.collection) == photos
        assert found.classes == tuple(range(5 * fold, 5 * fold + 5))
        training = read_benchmark(pascal, "pascal-5i", fold=fold, part="train")
        assert len(training.classes) == trained
        assert set(training.classes).isdisjoint(found.classes)
    first = next(read_benchmark(pascal, "pascal-5i", fold=2).episodes(2, 3))
    published = published_fscs_episode(0, benchmark="pascal", fold=2, way=2, shot=3)
    assert first.ways == tuple(int(k) - 1 for k in published.support_classes)
    assert [len(shots) for shots in first.supports] == [3, 3]


def test_pascal_masks_keep_their_void(pascal: Path) -> None:
    found = read_benchmark(pascal, "pascal-5i", fold=0)
    photo = found.collection[0]
    mask = numpy.array([[0, 1, 255], [20, 5, 0]], dtype=numpy.uint8)
    Image.fromarray(mask).save(photo.mask)
    assert found.label_map(photo, (2, 3)).tolist() == [[0, 1, -1], [20, 5, 0]]
    with pytest.raises(InvalidInput, match="3 x 2 pixels, its photo 4 x 2"):
        found.label_map(photo, (2, 4))


def test_coco_lists(tmp_path: Path) -> None:
    images = {image for listed in coco20i_images("val", 1).values() for image in listed.tolist()}
    for name in ("val2014", "annotations/val2014"):
        (tmp_path / name).mkdir(parents=True)
    for image in images:
        stem = f"COCO_val2014_{image:012d}"
        (tmp_path / "val2014" / f"{stem}.jpg").touch()
        (tmp_path / "annotations" / "val2014" / f"{stem}.png").touch()
    found = read_benchmark(tmp_path, "coco-20i", fold=1)
    assert len(found.collection) == 15305
    assert found.classes[:3] == (1, 5, 9)
    assert found.collection.classes[:2] == ("person", "bicycle")
    episode = next(found.episodes(1, 5))
    assert len({*episode.supports[0], episode.query}) == 6


@pytest.fixture
def fss(tmp_path: Path) -> Path:
    for name in {"abacus", "zucchini", *class_split("fss1000")["classes"]["test"]}:
        (tmp_path / name).mkdir()
        for number in range(1, 11):
            (tmp_path / name / f"{number}.jpg").touch()
            (tmp_path / name / f"{number}.png").touch()
    return tmp_path


def test_fss_takes_every_photo_as_a_query_once(fss: Path) -> None:
    found = read_benchmark(fss, "fss-1000")
    episodes = list(found.episodes(1, 5))
    assert len(episodes) == 2400
    assert sorted(episode.query for episode in episodes) == list(range(2400))
    assert all(episode.query not in episode.supports[0] for episode in episodes)
    # The query's row stands in its class: supports are of the same ten photos.
    assert all(row // 10 == episode.query // 10 for episode in episodes for row in episode.supports[0])
    assert found.collection.file(1).endswith("/10.jpg")  # sorted as text, as the published loader lists them
    photo = found.collection[0]
    Image.fromarray(numpy.array([[0, 127, 128, 255]], dtype=numpy.uint8)).save(photo.mask)
    assert found.label_map(photo, (1, 4)).tolist() == [[0, 0, 1, 1]]


def test_other_folders_are_told_what_is_expected(tmp_path: Path, pascal: Path) -> None:
    with pytest.raises(InvalidInput, match=r"not laid out as coco-20i\. Expected: train2014"):
        read_benchmark(pascal, "coco-20i")
    with pytest.raises(InvalidInput, match="fold is 4"):
        read_benchmark(pascal, "pascal-5i", fold=4)
    stem = pascal5i_images("val", 0)[0].tolist()[0]
    (pascal / "JPEGImages" / f"{stem // 1_000_000}_{stem % 1_000_000:06d}.jpg").unlink()
    with pytest.raises(InvalidInput, match="is listed but not there"):
        read_benchmark(pascal, "pascal-5i", fold=0)
    assert find_benchmark(tmp_path / "nothing") is None
