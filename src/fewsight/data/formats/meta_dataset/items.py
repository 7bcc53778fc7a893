"""What a reader gives: for each class its photos, where they lie and which part of the file they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy

from fewsight.data.decode import Source, decode
from fewsight.data.signatures import IMAGE_SUFFIXES
from fewsight.errors import InvalidInput, UnreadableImage

__all__ = ["Item", "Reader", "as_file", "below", "cropped", "first_of", "in_class_folders", "photos_in"]


class Item(NamedTuple):
    """One photo: a file; of it a box (xmin, ymin, xmax, ymax) in pixels, or row `row` of an array."""

    path: Path
    box: tuple[int, int, int, int] | None = None
    row: int = -1


Found = Mapping[str, Sequence[Item]]


def as_file(item: Item) -> Source:
    """The whole photo as it lies on the disk."""
    return item.path


def cropped(item: Item) -> Source:
    """The box of the photo."""
    pixels = decode(item.path).image
    if item.box is None:
        return pixels
    left, top, right, bottom = item.box
    part = pixels[max(0, top) : bottom, max(0, left) : right]
    if not part.size:
        raise UnreadableImage(f"its box {item.box} lies outside the photo")
    return numpy.ascontiguousarray(part)


@dataclass(frozen=True)
class Reader:
    """How one source is read.

    Attributes:
        folders: names that its folder may have, besides the name of the source.
        expected: what is looked for in it, in words.
        read: (folder, names of classes) -> photos of each class that is there; empty where the layout is another.
        opened: what becomes of a photo; None leaves files as they are.
    """

    folders: tuple[str, ...]
    expected: str
    read: Callable[[Path, Sequence[str]], Found]
    opened: Callable[[Item], Source] = as_file


def below(folder: Path, name: str) -> Path:
    """A photo that a file names.

    Raises:
        InvalidInput: the name leads out of the folder.
    """
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts:
        raise InvalidInput(
            f"a photo is named {name!r}, which leads out of {folder}; correct the file that names it."
        )
    return folder / place


def first_of(folder: Path, *names: str) -> Path | None:
    """The first of some paths below a folder that exists."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def photos_in(folder: Path, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> list[Item]:
    """The photos of one folder by name, without hidden files."""
    allowed = frozenset(suffixes)
    try:
        names = sorted(path for path in folder.iterdir() if path.suffix.lower() in allowed)
    except OSError:
        return []
    return [Item(path) for path in names if not path.name.startswith(".")]


def in_class_folders(folder: Path, classes: Sequence[str]) -> Found:
    """A folder for each class, named as in the list of classes; `/` in a name is `_` in its folder."""
    found = {name: photos_in(folder / name.replace("/", "_")) for name in classes}
    return {name: items for name, items in found.items() if items}
