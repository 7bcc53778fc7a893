"""DATA as `adapt` takes it: every readable photo decoded once, with one label; copies and unreadable ones left out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from fewsight.data.collection import Collection
from fewsight.data.fingerprint import fingerprint
from fewsight.data.layouts import read_layout
from fewsight.data.store import PixelStore
from fewsight.errors import InvalidInput, UnreadableImage
from fewsight.workflows.labelled_photos import groups_of

__all__ = ["LabelledData", "read_labelled_data", "usable_labels"]


@dataclass(frozen=True)
class LabelledData:
    """Labelled photos.

    Attributes:
        name: of the folder or file.
        collection: all photos of the data.
        groups: a name for each photo, or None.
        description: how the data was read, in words.
        warnings: what is odd about it, in words.
    """

    name: str
    collection: Collection
    groups: list[str] | None
    description: str
    warnings: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Of names, sizes and labels."""
        return fingerprint(self.collection)


def read_labelled_data(
    source: Path, *, class_level: Any = "top", skip_empty: bool = False, group_by: str | None = None
) -> LabelledData:
    """List the photos; none is opened.

    Raises:
        InvalidInput: there are no labels, a photo has several, or a class is empty.
    """
    reading = read_layout(source, class_level=class_level, skip_empty=skip_empty)
    collection = reading.collection
    collection.targets()  # one label a photo
    groups = groups_of(collection, group_by)
    return LabelledData(source.name, collection, groups, reading.description, reading.warnings)


def usable_labels(
    data: LabelledData, store: PixelStore, *, strict: bool = False
) -> tuple[NDArray[numpy.int64], tuple[str, ...]]:
    """The class of each photo, -1 for those that must not serve, and what was left out, in words.

    Unreadable photos and further copies of a photo do not serve: a copy could stand on both sides. Of copies the one in
    the split `test` stays, else the first; copies with different labels all go.

    Raises:
        UnreadableImage: with `strict`, the first photo that cannot be read.
        InvalidInput: none can be read.
    """
    collection, labels = data.collection, data.collection.targets()
    remarks: list[str] = []
    unreadable = sorted(store.unreadable)
    if unreadable:
        first = collection.file(unreadable[0])
        if strict:
            raise UnreadableImage(
                f"{first} cannot be read (--strict stops here); `fewsight doctor` says why."
            )
        labels[unreadable] = -1
        remarks.append(
            f"{_photos(len(unreadable))} cannot be read and {_are(len(unreadable))} left out, the first is {first}; "
            "`fewsight doctor` says why."
        )
    if not (labels >= 0).any():
        raise InvalidInput(f"none of {len(collection)} photos can be read; `fewsight doctor` says why.")
    copies, conflicts = _copies(collection, labels, store)
    labels[copies] = -1
    if len(conflicts):
        names = ", ".join(collection.file(int(row)) for row in conflicts[:3])
        remarks.append(
            f"{_photos(len(conflicts))} with the same picture under different labels left out: {names}."
        )
    others = len(copies) - len(conflicts)
    if others:
        remarks.append(f"{others} further {'copy' if others == 1 else 'copies'} of a photo left out.")
    return labels, tuple(remarks)


def _copies(
    collection: Collection, labels: NDArray[numpy.int64], store: PixelStore
) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
    """Rows that must go because their picture is there already, and those of them that contradict each other."""
    tested = (
        collection.in_split("test") if "test" in collection.split_names else numpy.zeros(len(labels), bool)
    )
    same: dict[bytes, list[int]] = {}
    for row in numpy.flatnonzero(labels >= 0).tolist():
        digest = hashlib.blake2b(numpy.ascontiguousarray(store.pixels[row]).data, digest_size=16).digest()
        same.setdefault(digest, []).append(row)
    gone: list[int] = []
    contradicting: list[int] = []
    for rows in same.values():
        if len(rows) == 1:
            continue
        if len({int(labels[row]) for row in rows}) > 1:
            contradicting += rows
        else:
            kept = next((row for row in rows if tested[row]), rows[0])
            gone += [row for row in rows if row != kept]
    return numpy.array(sorted(gone + contradicting), int), numpy.array(sorted(contradicting), int)


def _photos(count: int) -> str:
    return f"{count} photo{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
