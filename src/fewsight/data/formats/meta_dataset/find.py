"""Which sources of Meta-Dataset lie in a folder, and what is missing of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy
from numpy.typing import NDArray

from fewsight.data.decode import Source
from fewsight.data.formats.meta_dataset.aircraft import AIRCRAFT
from fewsight.data.formats.meta_dataset.birds import BIRDS
from fewsight.data.formats.meta_dataset.coco import COCO
from fewsight.data.formats.meta_dataset.flowers import FLOWERS
from fewsight.data.formats.meta_dataset.fungi import FUNGI
from fewsight.data.formats.meta_dataset.ilsvrc import ILSVRC
from fewsight.data.formats.meta_dataset.items import Found, Item, Reader, as_file, in_class_folders
from fewsight.data.formats.meta_dataset.omniglot import OMNIGLOT
from fewsight.data.formats.meta_dataset.quickdraw import QUICKDRAW
from fewsight.data.formats.meta_dataset.signs import SIGNS
from fewsight.data.formats.meta_dataset.textures import TEXTURES
from fewsight.data.splits import meta_dataset_images

__all__ = ["READERS", "MissingSource", "SourcePhotos", "find_source"]

READERS: dict[str, Reader] = {
    "ilsvrc_2012": ILSVRC,
    "omniglot": OMNIGLOT,
    "aircraft": AIRCRAFT,
    "cu_birds": BIRDS,
    "dtd": TEXTURES,
    "quickdraw": QUICKDRAW,
    "fungi": FUNGI,
    "vgg_flower": FLOWERS,
    "traffic_sign": SIGNS,
    "mscoco": COCO,
}
LEAST = 2  # photos that a class needs for an episode


@dataclass(frozen=True)
class MissingSource:
    """A source that is not, or not all, there: its name, and in a sentence what was looked for."""

    source: str
    sentence: str


class SourcePhotos(Sequence[Source]):
    """The photos of one source, class after class, opened as they are asked for.

    Attributes:
        source: its name.
        classes: names in official order.
        counts: photos of each class, int64 [K].
        notes: how it differs from the published set, in words.
    """

    def __init__(
        self, source: str, folder: Path, found: Found, reader: Reader, notes: tuple[str, ...]
    ) -> None:
        self.source, self.notes = source, notes
        self.classes = tuple(found)
        self.counts = numpy.array([len(items) for items in found.values()], dtype=numpy.int64)
        self._starts = numpy.concatenate([[0], numpy.cumsum(self.counts)])
        self._folder, self._items, self._opened = folder, tuple(found.values()), reader.opened

    def by_class(self) -> list[NDArray[numpy.int64]]:
        """Rows of each class."""
        return [
            numpy.arange(start, end) for start, end in zip(self._starts[:-1], self._starts[1:], strict=True)
        ]

    def item(self, row: int) -> Item:
        """Where one photo lies."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        number = self._number(row)
        return self._items[number][row - int(self._starts[number])]

    def _number(self, row: int) -> int:
        return int(numpy.searchsorted(self._starts, row, side="right")) - 1

    def name(self, row: int) -> str:
        """One photo for lists: source, class, path below the folder of the source, and which part of the file."""
        item, of = self.item(row), self.classes[self._number(row)]
        part = (
            f"#{item.row}"
            if item.row >= 0
            else ""
            if item.box is None
            else f"#{','.join(map(str, item.box))}"
        )
        return f"{self.source}/{of}/{item.path.relative_to(self._folder).as_posix()}{part}"

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, index: int) -> Source: ...
    @overload
    def __getitem__(self, index: slice) -> list[Source]: ...
    def __getitem__(self, index: int | slice) -> Source | list[Source]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        return self._opened(self.item(index))

    def select(self, rows: Sequence[int] | NDArray[numpy.int64]) -> Sequence[Source]:
        """Some of the photos, opened as they are asked for."""
        return _Chosen(self, numpy.asarray(rows, dtype=numpy.int64))


class _Chosen(Sequence[Source]):
    def __init__(self, photos: SourcePhotos, rows: NDArray[numpy.int64]) -> None:
        self.photos, self.rows = photos, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Source: ...
    @overload
    def __getitem__(self, index: slice) -> list[Source]: ...
    def __getitem__(self, index: int | slice) -> Source | list[Source]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self.photos[int(self.rows[index])]


def find_source(data: Path, source: str) -> SourcePhotos | MissingSource:
    """The test classes of one source below `data`, from the set's ordinary files or a folder for each class.

    The folder bears the name of the source or one of its usual names, or is `data` itself if that does.

    Raises:
        InvalidInput: a file of the set is damaged.
    """
    reader, wanted = READERS[source], meta_dataset_images(source, "test")
    names = (source, *reader.folders)
    folders = _folders(data, names)
    best: tuple[Path, Found, Reader] | None = None
    for folder in folders:
        plain = Reader((), "", in_class_folders, as_file)
        for how in (reader, plain):
            found = how.read(folder, list(wanted))
            if best is None or len(found) > len(best[1]):
                best = folder, found, how
    if best is None or not best[1]:
        where = " or ".join(str(folder) for folder in folders) or f"{data} as {', '.join(names)}"
        return MissingSource(source, f"{source} not found; looked in {where} for {reader.expected}")
    folder, found, how = best
    lacking = [name for name in wanted if len(found.get(name, ())) < LEAST]
    if lacking:
        return MissingSource(
            source,
            f"{source} is incomplete: {len(lacking)} of {len(wanted)} test classes have no two photos in {folder}, the "
            f"first is {lacking[0]!r}; looked for {reader.expected}",
        )
    ordered = {name: found[name] for name in wanted}
    return SourcePhotos(source, folder, ordered, how, _notes(ordered, wanted, how is not reader))


def _folders(data: Path, names: Sequence[str]) -> list[Path]:
    """Folders that bear one of the names, whatever their case."""
    spelled = {name.lower() for name in names}
    try:
        inside = sorted(path for path in data.iterdir() if path.name.lower() in spelled and path.is_dir())
    except OSError:
        return []
    return [*inside, *([data] if data.name.lower() in spelled else [])]


def _notes(found: Found, wanted: Mapping[str, int], plain: bool) -> tuple[str, ...]:
    notes = []
    here, published = sum(map(len, found.values())), sum(wanted.values())
    if here != published:
        notes.append(f"{here} photos, {published} in the published set")
    if plain:
        notes.append("class folders, taken as they are: neither cropped nor inverted")
    return tuple(notes)
