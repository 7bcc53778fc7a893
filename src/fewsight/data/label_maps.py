"""The masks of a collection at one size, decoded when they are asked for and kept in memory up to a bound."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy
from numpy.typing import NDArray
from PIL import Image

from fewsight.data.collection import Collection, Photo
from fewsight.data.masks import IGNORED, label_map, read_mask_colours, read_mask_names

__all__ = ["LabelMaps", "ReadMap"]

VOID = 255
ReadMap = Callable[[Photo, tuple[int, int]], NDArray[numpy.int16]]
LIMIT = 512 * 2**20  # bytes of maps that are kept


@dataclass(frozen=True)
class LabelMaps:
    """Label maps by row of a collection.

    Attributes:
        collection: the photos.
        sizes: height and width of each upright photo in pixels, as its mask must have.
        side: of the square that maps are resampled to by `resized` (nearest neighbour, as published).
        read: how the mask of a photo is read; None: `data.masks.label_map`, with names of `classes.csv`.
    """

    collection: Collection
    sizes: Sequence[tuple[int, int]]
    side: int
    read: ReadMap | None = None
    _kept: OrderedDict[int, NDArray[numpy.int16]] = field(default_factory=OrderedDict, repr=False)
    _shown: dict[int, frozenset[int]] = field(default_factory=dict, repr=False)
    _busy: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def _names(self) -> dict[int, str]:
        return read_mask_names(self.collection.root)

    @cached_property
    def _colours(self) -> dict[int, tuple[int, int, int]]:
        return read_mask_colours(self.collection.root)

    def has(self, row: int) -> bool:
        """Whether photo `row` came with a mask."""
        masks = self.collection.masks
        return masks is not None and bool(masks[row])

    def full(self, row: int) -> NDArray[numpy.int16]:
        """The map [H, W] of a photo at its own size: 0 background, k + 1 = class k, -1 not known.

        Raises:
            InvalidInput: the mask is missing, unreadable, of another size, or holds values without a name.
        """
        photo = self.collection[row]
        if self.read is not None:
            return self.read(photo, self.sizes[row])
        return label_map(photo, self.sizes[row], self.collection.classes, self._names, self._colours)

    def resized(self, row: int) -> NDArray[numpy.int16]:
        """The map [side, side]."""
        with self._busy:
            if row in self._kept:
                self._kept.move_to_end(row)
                return self._kept[row]
        whole = self.full(row)
        small = numpy.asarray(
            Image.fromarray(whole.astype(numpy.int32)).resize((self.side,) * 2, Image.Resampling.NEAREST)
        ).astype(numpy.int16)
        with self._busy:
            self._kept[row] = small
            self._shown[row] = frozenset((numpy.unique(whole[whole > 0]) - 1).tolist())
            while len(self._kept) * small.nbytes > LIMIT:
                self._kept.popitem(last=False)
        return small

    def shows(self, row: int, number: int) -> bool:
        """Whether a pixel of the full map is of class `number`."""
        if row not in self._shown:
            self.resized(row)
        return number in self._shown[row]

    def one(self, row: int, number: int) -> NDArray[numpy.uint8]:
        """The map of one class [side, side]: 1 = the class, 0 = all else, 255 = not known."""
        labels = self.resized(row)
        one = (labels == number + 1).astype(numpy.uint8)
        one[labels == IGNORED] = VOID
        return one
