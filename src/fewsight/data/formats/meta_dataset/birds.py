"""CUB-200-2011: `images/008.Rhinoceros_Auklet/*.jpg`, whole photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewsight.data.formats.meta_dataset.items import Found, Reader, first_of, in_class_folders

__all__ = ["BIRDS"]


def read(folder: Path, classes: Sequence[str]) -> Found:
    """Folders named by number and species."""
    return in_class_folders(first_of(folder, "CUB_200_2011/images", "images") or folder, classes)


BIRDS = Reader(("CUB_200_2011", "CUB-200-2011", "cub"), "images/008.Rhinoceros_Auklet/*.jpg, ...", read)
