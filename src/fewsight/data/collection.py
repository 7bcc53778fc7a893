"""`Collection`: what is known of many photos, in columns. `Photo`: one of them.

A million photos cost about 100 MB: names stand in one bytes buffer with offsets, all else in integer columns. The
columns are NumPy arrays, so that a collection is pickled quickly and shared by forked workers without a copy.

Letters: N photos, K classes.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy
from numpy.typing import ArrayLike, NDArray

from fewsight.data.file_names import display_name, natural_key
from fewsight.errors import InvalidInput

__all__ = ["Collection", "NameColumn", "Photo", "Row"]


@dataclass(frozen=True)
class Photo:
    """One photo of a collection.

    Attributes:
        source: where the file lies.
        labels: names of its classes; empty where nothing is known.
        mask: where its mask lies, or None.
        group: photos of one group (folder, burst) never stand on both sides of a split; None: on its own.
        split: `train`, `val`, `test`, ..., or None.
        file: the name for people and files, relative to the collection's root.
    """

    source: Path
    labels: tuple[str, ...] = ()
    mask: Path | None = None
    group: str | None = None
    split: str | None = None
    file: str = ""


class Row(NamedTuple):
    """What `Collection.from_rows` takes: names relative to the root as bytes, with `/` between folders."""

    file: bytes
    labels: Sequence[str] = ()
    mask: bytes | None = None
    group: str | None = None
    split: str | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, eq=False)
class NameColumn(Sequence[bytes]):
    """N byte strings in one buffer: uint8 [total], offsets int64 [N + 1]."""

    buffer: NDArray[numpy.uint8]
    offsets: NDArray[numpy.int64]

    @classmethod
    def from_names(cls, names: Iterable[bytes]) -> NameColumn:
        """Pack names; memory is that of the column, whatever iterates."""
        buffer, offsets = bytearray(), array("q", [0])
        for name in names:
            buffer += name
            offsets.append(len(buffer))
        return cls(numpy.frombuffer(buffer, dtype=numpy.uint8), numpy.frombuffer(offsets, dtype=numpy.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        start, end = self.offsets[index], self.offsets[index + 1]
        return self.buffer[start:end].tobytes()

    def lengths(self) -> NDArray[numpy.int64]:
        """Bytes of each name, int64 [N]."""
        return numpy.diff(self.offsets)

    def select(self, index: NDArray[numpy.int64]) -> NameColumn:
        """The names at `index`, in its order."""
        positions, offsets = _ragged_positions(self.offsets, index)
        return NameColumn(self.buffer[positions], offsets)


@dataclass(frozen=True, eq=False)
class Collection(Sequence[Photo]):
    """N photos of K classes.

    Attributes:
        root: the folder that all names are relative to.
        classes: names of the classes; labels are indices into them.
        files: names relative to `root`, as bytes with `/` between folders.
        labels: class indices of all photos in a row, int32 [total].
        label_offsets: photo n has `labels[label_offsets[n] : label_offsets[n + 1]]`, int64 [N + 1].
        masks: names of the masks like `files`, empty where there is none; None: no photo has one.
        groups: int32 [N], indices into `group_names`, -1 for none.
        splits: int32 [N], indices into `split_names`, -1 for none.
        boxes: float32 [N, 4], the part of each photo that is looked at, as (x, y, width, height) in shares of the
            upright photo from its top left; NaN for the whole photo. None: all are whole.
    """

    root: str
    classes: tuple[str, ...]
    files: NameColumn
    labels: NDArray[numpy.int32]
    label_offsets: NDArray[numpy.int64]
    masks: NameColumn | None
    groups: NDArray[numpy.int32]
    group_names: tuple[str, ...]
    splits: NDArray[numpy.int32]
    split_names: tuple[str, ...]
    boxes: NDArray[numpy.float32] | None = None

    @classmethod
    def from_rows(
        cls, root: str | Path, rows: Iterable[Row], *, classes: Sequence[str] | None = None
    ) -> Collection:
        """Build the columns from rows, one at a time.

        Args:
            root: the folder that names are relative to.
            rows: see `Row`.
            classes: in the order wanted; None takes those that occur, in natural order.

        Raises:
            InvalidInput: a label that is not among `classes`.
        """
        columns = _Columns(classes)
        for row in rows:
            columns.append(row)
        return columns.collection(os.fspath(root))

    @classmethod
    def from_paths(cls, paths: Iterable[str | os.PathLike[str]], labels: Sequence[str] = ()) -> Collection:
        """Photos anywhere on the disk, by absolute path; `labels`: one for each, or none at all."""
        files = [os.fsencode(Path(path).absolute().as_posix()) for path in paths]
        if labels and len(labels) != len(files):
            raise InvalidInput(f"there are {len(labels)} labels for {len(files)} paths; give one for each.")
        pairs = zip(files, labels, strict=True) if labels else ((file, None) for file in files)
        return cls.from_rows(
            "/", (Row(file.lstrip(b"/"), () if label is None else (label,)) for file, label in pairs)
        )

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Photo]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        n = self._position(index)
        mask = self.masks[n] if self.masks is not None else b""
        return Photo(
            source=Path(self.path(n)),
            labels=tuple(self.classes[k] for k in self.labels_of(n)),
            mask=Path(self._absolute(mask)) if mask else None,
            group=self.group_names[self.groups[n]] if self.groups[n] >= 0 else None,
            split=self.split_names[self.splits[n]] if self.splits[n] >= 0 else None,
            file=self.file(n),
        )

    def file(self, index: int) -> str:
        """The name of one photo for people and files."""
        return display_name(self.files[self._position(index)])

    def path(self, index: int) -> str:
        """Where one photo lies; bytes that are not UTF-8 as Python gives them (surrogates)."""
        return self._absolute(self.files[self._position(index)])

    def box_of(self, index: int) -> tuple[float, float, float, float] | None:
        """The part of one photo that is looked at, (x, y, width, height) in [0, 1]; None for the whole photo."""
        if self.boxes is None:
            return None
        x, y, width, height = self.boxes[self._position(index)].tolist()
        return None if x != x else (x, y, width, height)

    def labels_of(self, index: int) -> NDArray[numpy.int32]:
        """Class indices of one photo, int32 [its labels]."""
        n = self._position(index)
        return self.labels[self.label_offsets[n] : self.label_offsets[n + 1]]

    def targets(self) -> NDArray[numpy.int64]:
        """The class index of each photo, int64 [N]; -1 where it has none.

        Raises:
            InvalidInput: a photo has several labels (see `membership`).
        """
        counts = numpy.diff(self.label_offsets)
        if counts.max(initial=0) > 1:
            n = int(counts.argmax())
            raise InvalidInput(f"{self.file(n)} has {counts[n]} labels; one label a photo is needed here.")
        targets = numpy.full(len(self), -1, dtype=numpy.int64)
        targets[counts == 1] = self.labels
        return targets

    def membership(self) -> NDArray[numpy.bool_]:
        """Bool [N, K], True where photo n belongs to class k."""
        membership = numpy.zeros((len(self), len(self.classes)), dtype=bool)
        membership[self._photo_of_label(), self.labels] = True
        return membership

    def by_class(self) -> tuple[NDArray[numpy.int64], ...]:
        """The photos of each class, K arrays of indices in ascending order."""
        order = numpy.argsort(self.labels, kind="stable")
        photos = self._photo_of_label()[order]
        ends = numpy.cumsum(numpy.bincount(self.labels, minlength=len(self.classes)))
        return tuple(numpy.split(photos, ends[:-1])) if self.classes else ()

    def counts(self) -> NDArray[numpy.int64]:
        """How many photos each class has, int64 [K]."""
        return numpy.bincount(self.labels, minlength=len(self.classes)).astype(numpy.int64)

    def labelled(self) -> NDArray[numpy.bool_]:
        """Which photos have a label, bool [N]."""
        return numpy.diff(self.label_offsets) > 0

    def in_split(self, name: str) -> NDArray[numpy.bool_]:
        """Which photos belong to the split of this name, bool [N]."""
        if name not in self.split_names:
            raise InvalidInput(f"there is no split {name!r}; found: {', '.join(self.split_names) or 'none'}.")
        return self.splits == self.split_names.index(name)

    def select(self, index: ArrayLike) -> Collection:
        """The photos at `index` (integers in any order, or bool [N]); the classes stay as they are."""
        chosen = numpy.asarray(index)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise InvalidInput(f"index has shape {list(chosen.shape)}; expected bool [{len(self)}].")
            chosen = numpy.flatnonzero(chosen)
        chosen = chosen.astype(numpy.int64).reshape(-1)
        if chosen.size and not (-len(self) <= chosen.min() and chosen.max() < len(self)):
            raise InvalidInput(
                f"index reaches from {chosen.min()} to {chosen.max()} among {len(self)} photos."
            )
        chosen = numpy.where(chosen < 0, chosen + len(self), chosen)
        positions, offsets = _ragged_positions(self.label_offsets, chosen)
        return replace(
            self,
            files=self.files.select(chosen),
            labels=self.labels[positions],
            label_offsets=offsets,
            masks=self.masks.select(chosen) if self.masks is not None else None,
            groups=self.groups[chosen],
            splits=self.splits[chosen],
            boxes=None if self.boxes is None else self.boxes[chosen],
        )

    def whole(self) -> Collection:
        """The same photos, looked at as a whole whatever boxes there are."""
        return replace(self, boxes=None)

    def without_empty_classes(self) -> Collection:
        """The same photos with only the classes that occur."""
        kept = numpy.flatnonzero(self.counts())
        position = numpy.full(len(self.classes), -1, dtype=numpy.int32)
        position[kept] = numpy.arange(len(kept), dtype=numpy.int32)
        return replace(self, classes=tuple(self.classes[k] for k in kept), labels=position[self.labels])

    def _photo_of_label(self) -> NDArray[numpy.int64]:
        return numpy.repeat(numpy.arange(len(self)), numpy.diff(self.label_offsets))

    def _absolute(self, name: bytes) -> str:
        return f"{self.root.rstrip(os.sep)}{os.sep}{os.fsdecode(name)}"

    def _position(self, index: int) -> int:
        n = int(index)
        if not -len(self) <= n < len(self):
            raise IndexError(f"photo {n} of {len(self)}")
        return n % len(self)


class _Columns:
    """The columns of a collection while they grow."""

    def __init__(self, classes: Sequence[str] | None) -> None:
        self._fixed = classes is not None
        self._classes = {name: k for k, name in enumerate(classes or ())}
        if classes is not None and len(self._classes) != len(classes):
            raise InvalidInput("classes holds a name twice; each may stand once.")
        self._groups: dict[str, int] = {}
        self._splits: dict[str, int] = {}
        self._files, self._file_ends = bytearray(), array("q", [0])
        self._masks, self._mask_ends = bytearray(), array("q", [0])
        self._labels, self._label_ends = array("i"), array("q", [0])
        self._group, self._split = array("i"), array("i")
        self._boxes, self._boxed = array("f"), False

    def append(self, row: Row) -> None:
        for label in dict.fromkeys(row.labels):
            if self._fixed and label not in self._classes:
                raise InvalidInput(
                    f"{display_name(row.file)} has the label {label!r}, which is not among classes."
                )
            self._labels.append(self._classes.setdefault(label, len(self._classes)))
        self._label_ends.append(len(self._labels))
        self._files += row.file
        self._file_ends.append(len(self._files))
        self._masks += row.mask or b""
        self._mask_ends.append(len(self._masks))
        self._group.append(_code(self._groups, row.group))
        self._split.append(_code(self._splits, row.split))
        self._boxes.extend(row.box or (math.nan,) * 4)
        self._boxed |= row.box is not None

    def collection(self, root: str) -> Collection:
        names = list(self._classes)
        labels = _integers(self._labels)
        if not self._fixed:
            order = sorted(range(len(names)), key=lambda k: natural_key(names[k]))
            rank = numpy.empty(len(names), dtype=numpy.int32)
            rank[order] = numpy.arange(len(names), dtype=numpy.int32)
            names, labels = [names[k] for k in order], rank[labels]
        return Collection(
            root=root,
            classes=tuple(names),
            files=_column(self._files, self._file_ends),
            labels=labels,
            label_offsets=numpy.frombuffer(self._label_ends, dtype=numpy.int64),
            masks=_column(self._masks, self._mask_ends) if self._masks else None,
            groups=_integers(self._group),
            group_names=tuple(self._groups),
            splits=_integers(self._split),
            split_names=tuple(self._splits),
            boxes=numpy.frombuffer(self._boxes, dtype=numpy.float32).reshape(-1, 4) if self._boxed else None,
        )


def _code(codes: dict[str, int], name: str | None) -> int:
    return -1 if name is None else codes.setdefault(name, len(codes))


def _integers(values: array[int]) -> NDArray[numpy.int32]:
    return numpy.frombuffer(values, dtype=numpy.int32) if values else numpy.zeros(0, dtype=numpy.int32)


def _column(buffer: bytearray, ends: array[int]) -> NameColumn:
    return NameColumn(numpy.frombuffer(buffer, dtype=numpy.uint8), numpy.frombuffer(ends, dtype=numpy.int64))


def _ragged_positions(
    offsets: NDArray[numpy.int64], index: NDArray[numpy.int64]
) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
    """Positions of the chosen runs in their buffer, and the offsets of the runs laid end to end."""
    lengths = offsets[index + 1] - offsets[index]
    ends = numpy.concatenate([numpy.zeros(1, dtype=numpy.int64), numpy.cumsum(lengths)])
    within = numpy.arange(ends[-1]) - numpy.repeat(ends[:-1], lengths)
    return numpy.repeat(offsets[index], lengths) + within, ends
