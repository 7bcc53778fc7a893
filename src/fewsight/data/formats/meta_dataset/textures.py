"""Describable Textures (DTD): `images/banded/*.jpg`, whole photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewsight.data.formats.meta_dataset.items import Found, Reader, first_of, in_class_folders

__all__ = ["TEXTURES"]


def read(folder: Path, classes: Sequence[str]) -> Found:
    """Folders named by texture; the stray file in `waffled` is no photo and is passed over."""
    return in_class_folders(first_of(folder, "dtd/images", "images") or folder, classes)


TEXTURES = Reader(("dtd-r1.0.1", "textures"), "images/banded/*.jpg, ...", read)
