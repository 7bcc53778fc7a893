"""Class lists of published benchmarks, as shipped in this folder; sources in its README.

class_split("cifar_fs")                  the splits of one benchmark, as in its file
meta_dataset_images("aircraft", "test")  classes and image counts of a Meta-Dataset source
imagenet_hierarchy("train")              ImageNet's graph for `data.episodes.class_hierarchy`
pascal5i_images("val", 0), coco20i_images("val", 0)
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple

import numpy
from numpy.typing import NDArray

from fewsight.errors import InvalidInput

__all__ = [
    "META_DATASET_SOURCES",
    "ImagenetHierarchy",
    "class_split",
    "coco20i_images",
    "imagenet_hierarchy",
    "meta_dataset_images",
    "omniglot_alphabets",
    "pascal5i_images",
    "split_names",
]

META_DATASET_SOURCES = (
    "ilsvrc_2012",
    "omniglot",
    "aircraft",
    "cu_birds",
    "dtd",
    "quickdraw",
    "fungi",
    "vgg_flower",
    "traffic_sign",
    "mscoco",
)
Integers = NDArray[numpy.int64]
MetaDatasetSplit = Literal["train", "valid", "test"]


def split_names() -> list[str]:
    """Names that `class_split` takes."""
    return sorted(
        entry.name.removesuffix(".json")
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".json")
    )


@lru_cache(maxsize=32)
def class_split(name: str) -> dict[str, Any]:
    """The content of one file of class lists.

    Raises:
        InvalidInput: there is no such list.

    >>> [len(classes) for classes in class_split("mini_imagenet")["splits"].values()]
    [64, 16, 20]
    """
    if name not in split_names():
        raise InvalidInput(f"there is no class list {name!r}; there are {', '.join(split_names())}.")
    return json.loads(files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8"))


def meta_dataset_images(source: str, split: MetaDatasetSplit) -> dict[str, int]:
    """Classes of one split of a Meta-Dataset source in official order, with their numbers of images.

    Raises:
        InvalidInput: there is no such source or split.

    >>> len(meta_dataset_images("omniglot", "test"))
    659
    """
    if source not in META_DATASET_SOURCES:
        raise InvalidInput(
            f"there is no Meta-Dataset source {source!r}; there are {', '.join(META_DATASET_SOURCES)}."
        )
    if source == "omniglot":
        return {
            f"{alphabet}-character{number:02d}": 20
            for alphabet, characters in omniglot_alphabets(split).items()
            for number in range(1, characters + 1)
        }
    return dict(_split(class_split(f"meta_dataset_{source}"), split))


def omniglot_alphabets(split: MetaDatasetSplit) -> dict[str, int]:
    """Alphabets of a Meta-Dataset split of Omniglot with their numbers of characters, in official order."""
    return dict(_split(class_split("meta_dataset_omniglot"), split))


def _split(content: dict[str, Any], split: str) -> Any:
    splits = content["splits"]
    if split not in ("train", "valid", "test"):
        raise InvalidInput(f"split is {split!r}; expected 'train', 'valid' or 'test'.")
    return splits.get(split, {})


class ImagenetHierarchy(NamedTuple):
    """A split's part of the WordNet graph, with nodes counted in the order of their WordNet ids.

    Attributes:
        nodes: WordNet ids, sorted.
        edges: (parent, child) `[E, 2]`, indices of `nodes`.
        leaves: indices of the split's classes, in the order of the classes.
    """

    nodes: tuple[str, ...]
    edges: Integers
    leaves: Integers


def imagenet_hierarchy(split: MetaDatasetSplit) -> ImagenetHierarchy:
    """Meta-Dataset's graph of ImageNet for one split."""
    content = class_split("meta_dataset_ilsvrc_2012")
    classes = _split(content, split)
    graph = content["graph"][split]
    nodes = tuple(sorted(set(graph) | set(classes)))
    place = {node: index for index, node in enumerate(nodes)}
    edges = [(place[parent], place[child]) for parent, (_, children) in graph.items() for child in children]
    return ImagenetHierarchy(
        nodes,
        numpy.array(edges, dtype=numpy.int64),
        numpy.array([place[name] for name in classes], dtype=numpy.int64),
    )


@lru_cache(maxsize=16)
def pascal5i_images(split: Literal["train", "val"], fold: int) -> tuple[Integers, Integers]:
    """Images `[M]` (2007_000033 as 2007000033) and classes 1..20 `[M]` of a fold, in the order of the list.

    The file of a fold lists the classes *of* that fold; to train for it, take the other three.
    """
    text = files(__name__).joinpath(f"pascal5i_{split}.csv").read_text(encoding="utf-8")
    rows = [line.split(",") for line in text.splitlines()[1:] if line]
    chosen = [
        (int(image.replace("_", "")), int(label)) for of_fold, image, label in rows if int(of_fold) == fold
    ]
    images, classes = (numpy.array(column, dtype=numpy.int64) for column in zip(*chosen, strict=True))
    return images, classes


@lru_cache(maxsize=16)
def coco20i_images(split: Literal["train", "val"], fold: int) -> dict[int, Integers]:
    """Images of each of the 20 classes (1..80) of a fold, in the order of the lists; numbers of the file names."""
    with files(__name__).joinpath("coco20i_lists.npz").open("rb") as file, numpy.load(file) as lists:
        ids, offsets = lists[f"{split}_ids"].astype(numpy.int64), lists[f"{split}_offsets"]
    classes = [fold + 4 * step + 1 for step in range(20)]
    return {one: ids[offsets[one - 1] : offsets[one]] for one in classes}
