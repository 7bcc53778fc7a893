"""ILSVRC-2012: the training photos `n01440764/n01440764_10026.JPEG`, without those that another source holds too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewsight.data.formats.meta_dataset.items import Found, Reader, first_of, in_class_folders
from fewsight.data.splits import class_split

__all__ = ["ILSVRC"]


def read(folder: Path, classes: Sequence[str]) -> Found:
    """Folders named by WordNet id."""
    place = first_of(
        folder, "ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train", "ILSVRC2012_img_train", "train"
    )
    left_out = {
        name for names in class_split("meta_dataset_ilsvrc_2012_duplicates").values() for name in names
    }
    found = in_class_folders(place or folder, classes)
    return {name: [item for item in items if item.path.name not in left_out] for name, items in found.items()}


ILSVRC = Reader(
    ("imagenet", "ILSVRC2012_img_train", "ILSVRC2012", "ILSVRC"),
    "folders n02666196, ... of training photos, there or in train/ or ILSVRC/Data/CLS-LOC/train/",
    read,
)
