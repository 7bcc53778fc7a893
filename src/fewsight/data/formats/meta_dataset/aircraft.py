"""FGVC-Aircraft (2013b): variants by `images_variant_*.txt`, cropped to the box of `images_box.txt`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fewsight.data.formats.meta_dataset.items import Found, Item, Reader, cropped, first_of
from fewsight.errors import InvalidInput

__all__ = ["AIRCRAFT"]

PARTS = ("train", "val", "test")


def read(folder: Path, classes: Sequence[str]) -> Found:
    """Photos of all three of the set's own parts, by variant."""
    place = first_of(folder, "fgvc-aircraft-2013b/data", "data") or folder
    boxes_file = place / "images_box.txt"
    if not boxes_file.is_file():
        return {}
    boxes = {image: _box(boxes_file, rest) for image, rest in _lines(boxes_file)}
    found: dict[str, list[Item]] = {name: [] for name in classes}
    for part in PARTS:
        for image, variant in _lines(place / f"images_variant_{part}.txt"):
            if variant in found and image in boxes:
                found[variant].append(Item(place / "images" / f"{image}.jpg", boxes[image]))
    return {name: sorted(items) for name, items in found.items() if items}


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """First word and rest of each line; none where the file is not there."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            first, _, rest = line.strip().partition(" ")
            yield first, rest.strip()


def _box(path: Path, text: str) -> tuple[int, int, int, int]:
    try:
        left, top, right, bottom = (int(number) for number in text.split())
    except ValueError as error:
        raise InvalidInput(f"{path} holds the box {text!r}; expected four whole numbers.") from error
    return left, top, right, bottom


AIRCRAFT = Reader(
    ("fgvc-aircraft-2013b", "fgvc-aircraft", "fgvc_aircraft"),
    "data/images/*.jpg, data/images_variant_{train,val,test}.txt and data/images_box.txt",
    read,
    cropped,
)
