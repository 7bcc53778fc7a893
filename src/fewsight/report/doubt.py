"""How doubtful an answer is, and which answers a person should look at first."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import numpy

from fewsight.predictions import Prediction

__all__ = ["CERTAINTIES", "Certainty", "Doubts", "certainty", "doubt", "doubtful_first", "doubts"]

Certainty = Literal["in doubt", "fairly sure", "sure"]
CERTAINTIES: tuple[Certainty, ...] = ("in doubt", "fairly sure", "sure")

# above the first an answer is in doubt, above the second only fairly sure
IN_DOUBT, FAIRLY_SURE = 0.6, 0.2


def doubt(row: Prediction) -> float:
    """One minus the lead of the best class over the second, in [0, 1]; 1 where there is no score.

    >>> doubt(Prediction("a.jpg", "ok", label="heron", score=0.75, runner_up="stork", runner_up_score=0.25))
    0.5
    """
    margin = row.margin
    if margin is None or margin != margin:
        return 1.0
    return min(1.0, max(0.0, 1.0 - margin))


def certainty(row: Prediction) -> Certainty:
    """The doubt in words: in doubt (over 0.6), fairly sure (over 0.2), sure."""
    level = doubt(row)
    return "in doubt" if level > IN_DOUBT else "fairly sure" if level > FAIRLY_SURE else "sure"


class Doubts(Mapping[int, float]):
    """Doubt in [0, 1] of each answered or rejected row, by its index; 12 bytes a row.

    Answered rows have their own `doubt`. Rejected rows have no second class to compare with: the one least unlike
    the support, hence nearest to being answered, gets 1, the one most unlike it gets 1 / how many there are.
    """

    def __init__(self) -> None:
        self._rows, self._levels, self._rejected = 0, array("d"), array("d")
        self._indices, self._rejected_indices = array("q"), array("q")
        self._joined: tuple[numpy.ndarray, numpy.ndarray] | None = None

    def add(self, row: Prediction) -> None:
        """The next row of the run."""
        if row.answered:
            self._indices.append(self._rows)
            self._levels.append(doubt(row))
        elif row.status == "rejected":
            self._rejected_indices.append(self._rows)
            self._rejected.append(row.novelty or 0.0)
        self._rows += 1
        self._joined = None

    def first(self, limit: int | None = None) -> list[int]:
        """Indices from the most to the least doubtful, at most `limit`; equal doubt keeps the order of the rows."""
        indices, levels = self._columns()
        return indices[numpy.argsort(-levels, kind="stable")[:limit]].tolist()

    def _columns(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Indices, ascending, and their levels."""
        if self._joined is None:
            novelty = numpy.array(self._rejected)
            rejected = numpy.array(self._rejected_indices, dtype=numpy.int64)
            ranks = numpy.empty(len(novelty))
            ranks[numpy.argsort(novelty, kind="stable")] = numpy.arange(len(novelty))
            indices = numpy.concatenate([numpy.array(self._indices, dtype=numpy.int64), rejected])
            levels = numpy.concatenate([numpy.array(self._levels), 1 - ranks / max(1, len(novelty))])
            order = numpy.argsort(indices)
            self._joined = indices[order], levels[order]
        return self._joined

    def __len__(self) -> int:
        return len(self._indices) + len(self._rejected)

    def __iter__(self) -> Iterator[int]:
        return iter(self._columns()[0].tolist())

    def __getitem__(self, index: int) -> float:
        indices, levels = self._columns()
        place = int(numpy.searchsorted(indices, index))
        if place == len(indices) or indices[place] != index:
            raise KeyError(index)
        return float(levels[place])


def doubts(rows: Iterable[Prediction]) -> Doubts:
    """The doubt of every answered or rejected row."""
    levels = Doubts()
    for row in rows:
        levels.add(row)
    return levels


def doubtful_first(levels: Mapping[int, float], *, limit: int | None = None) -> list[int]:
    """Indices from the most to the least doubtful, at most `limit`; equal doubt keeps the order of the rows.

    >>> doubtful_first({0: 0.1, 1: 0.9, 2: 0.9})
    [1, 2, 0]
    """
    if isinstance(levels, Doubts):
        return levels.first(limit)
    return heapq.nsmallest(
        len(levels) if limit is None else limit, levels, key=lambda index: (-levels[index], index)
    )
