"""Photos that are the same picture, as groups: what must not stand among supports and queries at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from fewsight.data.collection import Collection
from fewsight.data.duplicates import find_duplicates, hash_photos

__all__ = ["DuplicateGroups", "duplicate_groups"]


@dataclass(frozen=True)
class DuplicateGroups:
    """Which of N photos show the same picture.

    Attributes:
        codes: of N photos, int64 [N]; duplicates, and duplicates of duplicates, share one.
        pairs: rows of the duplicates found, (first, second, equal byte for byte).
        unread: photos that could not be read, and so not compared.
    """

    codes: NDArray[numpy.int64]
    pairs: tuple[tuple[int, int, bool], ...]
    unread: int = 0

    def remark(self, collection: Collection) -> str | None:
        """What was found, in words; None where nothing was."""
        if self.unread and not self.pairs:
            return f"{self.unread} of {len(self.codes)} photos are not there to be compared: no duplicates looked for."
        if not self.pairs:
            return None
        first, second, exact = self.pairs[0]
        found = len({row for pair in self.pairs for row in pair[:2]})
        what = "the same file as" if exact else "nearly the same picture as"
        return (
            f"{found} photos have a duplicate in the data, the first: {collection.file(second)} is {what} "
            f"{collection.file(first)}. Duplicates never stand on both sides."
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

    hashes = hash_photos(collection, workers=workers, seen=lambda index, found: done())
    found = find_duplicates(hashes)
    pairs = tuple((pair.first, pair.second, pair.exact) for pair in found)
    rows = numpy.array([pair[:2] for pair in pairs], dtype=numpy.int64).reshape(-1, 2)
    graph = coo_array((numpy.ones(len(rows)), (rows[:, 0], rows[:, 1])), shape=2 * (len(collection),))
    codes = connected_components(graph, directed=False)[1].astype(numpy.int64)
    return DuplicateGroups(codes, pairs, int((~hashes.readable).sum()))
