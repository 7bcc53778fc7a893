"""What is in a folder and what is wrong with it, as plain values: the facts that `doctor` puts into words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy

from fewsight.data.class_names import name_clashes
from fewsight.data.collection import Collection
from fewsight.data.decode import MAX_PIXELS, Decoded
from fewsight.data.duplicates import Duplicate, PhotoHashes, find_duplicates, hash_photos
from fewsight.data.layouts import Reading
from fewsight.errors import UnreadableImage

__all__ = ["Flagged", "Inspection", "Pair", "inspect_photos"]

TINY_SIDE = 32  # pixels of the shorter side, below which a photo says little


@dataclass(frozen=True)
class Flagged:
    """A photo with something to say about: `status` and `note` as in `predictions.csv`."""

    file: str
    status: str
    note: str


@dataclass(frozen=True)
class Pair:
    """Two photos that are the same, or nearly (`exact` False), with their labels."""

    first: str
    second: str
    first_labels: tuple[str, ...]
    second_labels: tuple[str, ...]
    exact: bool


@dataclass(frozen=True)
class Inspection:
    """The facts about a folder.

    Attributes:
        description: how it was read, in one line.
        photos: how many.
        classes: photos of each class.
        imbalance: photos of the largest class over those of the smallest; 1.0 with no or one class.
        suffixes: photos by suffix. ignored: what was passed over, by kind.
        warnings: of the reading (absent images, class names that look the same, ...).
        clashes: of these, the class names that look the same.
        unreadable: photos that cannot be, or were refused to be, decoded.
        suspicious: photos that decode though they are damaged.
        noted: photos with a note otherwise (turned, 16 bits scaled, wrong suffix, first frame, odd aspect, ...).
        tiny: photos whose shorter side is under 32 pixels, with width and height.
        smallest, largest: width and height of the photos with the fewest and the most pixels, or None.
        duplicates: the same photo twice under the same labels.
        conflicts: the same photo twice under different labels.
        leaks: the same photo in two splits.
        shared_groups: groups that stand in several splits.
        in_pile: photos that also lie in the pile: first here, second there.
    """

    description: str
    photos: int
    classes: dict[str, int]
    imbalance: float
    suffixes: dict[str, int]
    ignored: dict[str, int]
    warnings: tuple[str, ...]
    clashes: tuple[str, ...]
    unreadable: tuple[Flagged, ...]
    suspicious: tuple[Flagged, ...]
    noted: tuple[Flagged, ...]
    tiny: tuple[tuple[str, int, int], ...]
    smallest: tuple[int, int] | None
    largest: tuple[int, int] | None
    duplicates: tuple[Pair, ...]
    conflicts: tuple[Pair, ...]
    leaks: tuple[Pair, ...]
    shared_groups: tuple[str, ...]
    in_pile: tuple[Pair, ...] = ()


def inspect_photos(
    reading: Reading, pile: Reading | None = None, *, workers: int | None = None, max_pixels: int = MAX_PIXELS
) -> Inspection:
    """Decode and compare all photos of a folder, and find them again in a pile.

    Args:
        reading: of the folder, from `read_layout`.
        pile: photos to be judged, from `read_layout`; None where there are none.
        workers: threads that decode.
        max_pixels: larger photos are refused.
    """
    collection = reading.collection
    survey = _Survey(collection, workers, max_pixels)
    counts = dict(zip(collection.classes, collection.counts().tolist(), strict=True))
    pairs = [(pair, _pair(collection, collection, pair)) for pair in find_duplicates(survey.hashes)]
    return Inspection(
        description=reading.description,
        photos=len(collection),
        classes=counts,
        imbalance=max(counts.values()) / max(1, min(counts.values())) if counts else 1.0,
        suffixes=reading.suffixes,
        ignored=reading.ignored,
        warnings=reading.warnings,
        clashes=name_clashes(collection.classes),
        unreadable=tuple(survey.unreadable()),
        suspicious=tuple(survey.noted(suspicious=True)),
        noted=tuple(survey.noted(suspicious=False)),
        tiny=tuple(survey.tiny()),
        smallest=survey.extreme(0),
        largest=survey.extreme(-1),
        duplicates=tuple(pair for _, pair in pairs if set(pair.first_labels) == set(pair.second_labels)),
        conflicts=tuple(pair for _, pair in pairs if set(pair.first_labels) != set(pair.second_labels)),
        leaks=tuple(pair for found, pair in pairs if _in_two_splits(collection, found)),
        shared_groups=_shared_groups(collection),
        in_pile=()
        if pile is None
        else _in_pile(collection, survey.hashes, pile.collection, workers, max_pixels),
    )


class _Survey:
    """Every photo decoded once: its hash, and what became of it."""

    def __init__(self, collection: Collection, workers: int | None, max_pixels: int) -> None:
        self._collection = collection
        self._notes: dict[int, Flagged] = {}
        self._sizes = numpy.zeros((len(collection), 2), dtype=numpy.int64)
        self._lock = threading.Lock()
        self.hashes: PhotoHashes = hash_photos(
            collection, workers=workers, max_pixels=max_pixels, seen=self._record
        )

    def _record(self, index: int, found: Decoded | UnreadableImage) -> None:
        if isinstance(found, Decoded):
            height, width = found.original_size
            self._sizes[index] = width, height
            if not found.notes:
                return
            status, note = "suspicious" if found.suspicious else "ok", "; ".join(found.notes)
        else:
            status, note = found.status, str(found)
        with self._lock:
            self._notes[index] = Flagged(self._collection.file(index), status, note)

    def unreadable(self) -> Iterator[Flagged]:
        """Photos without pixels, in order."""
        return (
            self._notes[n] for n in sorted(self._notes) if self._notes[n].status in ("unreadable", "refused")
        )

    def noted(self, *, suspicious: bool) -> Iterator[Flagged]:
        """Photos with pixels and a note, in order."""
        status = "suspicious" if suspicious else "ok"
        return (self._notes[n] for n in sorted(self._notes) if self._notes[n].status == status)

    def tiny(self) -> Iterator[tuple[str, int, int]]:
        """Small photos, in order."""
        shorter = self._sizes.min(axis=1)
        for index in numpy.flatnonzero((shorter > 0) & (shorter < TINY_SIDE)).tolist():
            yield self._collection.file(index), int(self._sizes[index, 0]), int(self._sizes[index, 1])

    def extreme(self, place: int) -> tuple[int, int] | None:
        """Width and height of the photo with the fewest (0) or most (-1) pixels."""
        known = self._sizes[self._sizes[:, 0] > 0]
        if not len(known):
            return None
        width, height = known[numpy.argsort(known.prod(axis=1), kind="stable")[place]]
        return int(width), int(height)


def _pair(first: Collection, second: Collection, found: Duplicate) -> Pair:
    here, there = first[found.first], second[found.second]
    return Pair(here.file, there.file, here.labels, there.labels, found.exact)


def _in_two_splits(collection: Collection, found: Duplicate) -> bool:
    first, second = collection.splits[found.first], collection.splits[found.second]
    return bool(first >= 0 and second >= 0 and first != second)


def _shared_groups(collection: Collection) -> tuple[str, ...]:
    known = (collection.groups >= 0) & (collection.splits >= 0)
    places = numpy.unique(numpy.stack([collection.groups[known], collection.splits[known]]), axis=1)
    splits_of_group = numpy.bincount(places[0], minlength=len(collection.group_names))
    return tuple(collection.group_names[code] for code in numpy.flatnonzero(splits_of_group > 1))


def _in_pile(
    collection: Collection, hashes: PhotoHashes, pile: Collection, workers: int | None, max_pixels: int
) -> tuple[Pair, ...]:
    others = hash_photos(pile, workers=workers, max_pixels=max_pixels)
    return tuple(_pair(collection, pile, found) for found in find_duplicates(hashes, others))
