"""Photos that are the same picture, as groups: what must not stand among supports and queries at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from fewsight.data.collection import Collection
from fewsight.data.duplicates import PhotoHashes, find_duplicates, hash_photos

__all__ = ["DuplicateGroups", "duplicate_groups"]

LARGEST = 100_000  # photos that are compared by look, each with each: about two minutes on one processor


@dataclass(frozen=True)
class DuplicateGroups:
    """Which of N photos show the same picture.

    Attributes:
        codes: of N photos, int64 [N]; duplicates, and duplicates of duplicates, share one.
        pairs: rows of the duplicates found, (first, second, equal byte for byte).
        unread: photos that could not be read, and so not compared.
        exact_only: there are more than `LARGEST` photos: only equal files were looked for.
    """

    codes: NDArray[numpy.int64]
    pairs: tuple[tuple[int, int, bool], ...]
    unread: int = 0
    exact_only: bool = False

    def remark(self, collection: Collection) -> str | None:
        """What was found, in words; None where nothing was."""
        if self.unread and not self.pairs:
            return f"{self.unread} of {len(self.codes)} photos are not there to be compared: no duplicates looked for."
        beyond = f"With more than {LARGEST:,} photos only equal files are looked for, no near-duplicates."
        if not self.pairs:
            return beyond if self.exact_only else None
        first, second, exact = self.pairs[0]
        found = len({row for pair in self.pairs for row in pair[:2]})
        what = "the same file as" if exact else "nearly the same picture as"
        return (
            f"{found} photos have a duplicate in the data, the first: {collection.file(second)} is {what} "
            f"{collection.file(first)}. Duplicates never stand on both sides."
            + (f" {beyond}" if self.exact_only else "")
        )


def duplicate_groups(
    collection: Collection, *, workers: int | None = None, done: Callable[[], None] = lambda: None
) -> DuplicateGroups:
    """Compare all photos by content and by look (`data.duplicates`).

    Args:
        workers: threads that decode.
        done: called after each photo, from several threads.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    many = len(collection) > LARGEST
    hashes = hash_photos(collection, workers=workers, exact_only=many, seen=lambda index, found: done())
    pairs = _copies(hashes) if many else _duplicates(hashes)
    rows = numpy.array([pair[:2] for pair in pairs], dtype=numpy.int64).reshape(-1, 2)
    graph = coo_array((numpy.ones(len(rows)), (rows[:, 0], rows[:, 1])), shape=2 * (len(collection),))
    codes = connected_components(graph, directed=False)[1].astype(numpy.int64)
    return DuplicateGroups(codes, pairs, int((~hashes.readable).sum()), many)


def _duplicates(hashes: PhotoHashes) -> tuple[tuple[int, int, bool], ...]:
    """All pairs among the photos that could be read."""
    rows = numpy.flatnonzero(hashes.readable)
    chosen = PhotoHashes(
        hashes.content[rows], hashes.perceptual[rows], hashes.readable[rows], hashes.comparable[rows]
    )
    found = find_duplicates(chosen) if len(rows) else ()
    return tuple((int(rows[pair.first]), int(rows[pair.second]), pair.exact) for pair in found)


def _copies(hashes: PhotoHashes) -> tuple[tuple[int, int, bool], ...]:
    """Each further copy of a file with its first one."""
    rows = numpy.flatnonzero(hashes.readable)
    _, first, code = numpy.unique(hashes.content[rows], axis=0, return_index=True, return_inverse=True)
    origin = rows[first[code.reshape(-1)]]
    return tuple((int(origin[n]), int(row), True) for n, row in enumerate(rows) if origin[n] != row)
