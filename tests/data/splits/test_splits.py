"""The shipped class lists: the published counts, disjoint splits, size."""

from pathlib import Path

import pytest

import fewsight.data.splits
from fewsight.data.splits import (
    META_DATASET_SOURCES,
    class_split,
    coco20i_images,
    meta_dataset_images,
    pascal5i_images,
    split_names,
)
from fewsight.errors import InvalidInput

CLASSES = {
    "ilsvrc_2012": (712, 158, 130),
    "omniglot": (883, 81, 659),
    "aircraft": (70, 15, 15),
    "cu_birds": (140, 30, 30),
    "dtd": (33, 7, 7),
    "quickdraw": (241, 52, 52),
    "fungi": (994, 200, 200),
    "vgg_flower": (71, 15, 16),
    "traffic_sign": (0, 0, 43),
    "mscoco": (0, 40, 40),
}
TEST_IMAGES = {"ilsvrc_2012": 165_682, "aircraft": 1_500, "quickdraw": 7_710_295, "traffic_sign": 39_209}


@pytest.mark.parametrize("source", META_DATASET_SOURCES)
def test_meta_dataset_has_the_published_counts(source):
    splits = [meta_dataset_images(source, split) for split in ("train", "valid", "test")]
    assert tuple(map(len, splits)) == CLASSES[source]
    assert len(set().union(*splits)) == sum(CLASSES[source])
    assert sum(splits[2].values()) == TEST_IMAGES.get(source, sum(splits[2].values()))


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("cifar_fs", (64, 16, 20)),
        ("mini_imagenet", (64, 16, 20)),
        ("tiered_imagenet", (351, 97, 160)),
        ("omniglot_vinyals", (1028, 172, 423)),
        ("fc100", (12, 4, 4)),
    ],
)
def test_class_splits_are_disjoint_and_complete(name, counts):
    splits = [set(map(str, classes)) for classes in class_split(name)["splits"].values()]
    assert tuple(map(len, splits)) == counts
    assert len(set().union(*splits)) == sum(counts)


def test_segmentation_lists_have_the_published_counts():
    assert [len(pascal5i_images("val", fold)[0]) for fold in range(4)] == [346, 451, 725, 346]
    assert [len(pascal5i_images("train", fold)[0]) for fold in range(4)] == [2286, 3425, 5883, 2086]
    entries = [sum(map(len, coco20i_images("val", fold).values())) for fold in range(4)]
    assert entries == [35_783, 17_912, 14_563, 14_315]


def test_everything_is_small_and_flat():
    files = [path for path in Path(fewsight.data.splits.__file__).parent.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5 * 2**20
    assert {path.stem for path in files if path.suffix == ".json"} == set(split_names())
    assert any(path.name == "README.md" for path in files)


def test_unknown_names_are_errors():
    with pytest.raises(InvalidInput, match="cifar"):
        class_split("cifar_sf")
    with pytest.raises(InvalidInput, match="dtd"):
        meta_dataset_images("DTD", "test")
    with pytest.raises(InvalidInput, match="val"):
        meta_dataset_images("dtd", "val")
