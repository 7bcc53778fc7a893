"""Quick, Draw!: NumPy bitmaps `angel.npy`, uint8 [drawings, 784], read row by row; not inverted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy
from numpy.typing import NDArray

from fewsight.data.decode import Source
from fewsight.data.formats.meta_dataset.items import Found, Item, Reader, first_of
from fewsight.errors import InvalidInput, UnreadableImage

__all__ = ["QUICKDRAW"]

SIDE = 28
_PREFIXES = ("", "full_numpy_bitmap_", "full-numpy_bitmap-")


class _Drawings(Sequence[Item]):
    """The rows of one array, made as they are asked for: a class has a hundred thousand."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.length = path, count

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [Item(self.path, row=row) for row in range(*index.indices(self.length))]
        if not 0 <= index < self.length:
            raise IndexError(index)
        return Item(self.path, row=index)


def read(folder: Path, classes: Sequence[str]) -> Found:
    """One file a class."""
    place = first_of(folder, "full/numpy_bitmap", "numpy_bitmap", "raw") or folder
    found = {}
    for name in classes:
        path = first_of(place, *(f"{prefix}{name}.npy" for prefix in _PREFIXES))
        if path is not None:
            found[name] = _Drawings(path, len(_bitmaps(path)))
    return found


def _bitmaps(path: Path) -> NDArray[numpy.uint8]:
    """The array on the disk; nothing in the file is executed."""
    try:
        bitmaps: NDArray[numpy.uint8] = numpy.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(f"{path} is no NumPy array ({error}).") from error
    if bitmaps.dtype != numpy.uint8 or bitmaps.ndim != 2 or bitmaps.shape[1] != SIDE * SIDE:
        raise InvalidInput(
            f"{path} is {bitmaps.dtype} {list(bitmaps.shape)}; expected uint8 [drawings, {SIDE * SIDE}]."
        )
    return bitmaps


def drawing(item: Item) -> Source:
    """One bitmap, 28 x 28."""
    try:
        return numpy.array(_bitmaps(item.path)[item.row]).reshape(SIDE, SIDE)
    except InvalidInput as error:
        raise UnreadableImage(str(error)) from error


QUICKDRAW = Reader(("quick_draw", "quickdraw_dataset"), "angel.npy, ...: the NumPy bitmaps", read, drawing)
