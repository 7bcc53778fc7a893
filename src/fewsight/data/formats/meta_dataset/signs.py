"""GTSRB: `Final_Training/Images/00000/*.ppm`, whole photos; a class is `00.Speed limit (20km/h)`.

Frames come as tracks of 30 nearly equal photos of one sign: with the benchmark's rule they stand among supports and
queries at once, so that the figure measures in part whether duplicates are found.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import PpmImagePlugin

from fewsight.data.decode import MAX_PIXELS, Source
from fewsight.data.formats.meta_dataset.items import (
    Found,
    Item,
    Reader,
    first_of,
    in_class_folders,
    photos_in,
)
from fewsight.data.signatures import IMAGE_SUFFIXES
from fewsight.data.source import read_bytes
from fewsight.errors import UnreadableImage

__all__ = ["SIGNS"]


def read(folder: Path, classes: Sequence[str]) -> Found:
    """Folders named by five digits, or by class."""
    place = first_of(
        folder, "GTSRB/Final_Training/Images", "Final_Training/Images", "GTSRB/Training", "Training", "Train"
    )
    suffixes = IMAGE_SUFFIXES | {".ppm"}
    found = {
        name: photos_in((place or folder) / f"{int(name.partition('.')[0]):05d}", suffixes)
        for name in classes
    }
    return {name: items for name, items in found.items() if items} or in_class_folders(folder, classes)


def sign(item: Item) -> Source:
    """A PPM, which is read here alone, or any other photo."""
    if item.path.suffix.lower() != ".ppm":
        return item.path
    content = read_bytes(item.path, max_bytes=1 << 24)
    try:
        image = PpmImagePlugin.PpmImageFile(io.BytesIO(content))
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableImage("too many pixels", status="refused")
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise UnreadableImage(f"damaged ({error})") from error
    return image.convert("RGB")


SIGNS = Reader(("GTSRB", "gtsrb"), "Final_Training/Images/00000/*.ppm, ...", read, sign)
