"""Episodes of a fixed way, shot and number of queries: episode i is a function of (seed, stream, i) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from fewsight.data.counter_draws import distinct, words
from fewsight.errors import InvalidInput
from fewsight.seeding import stream_seed

__all__ = ["Episode", "EpisodeBatch", "FixedEpisodes"]


@dataclass(frozen=True)
class Episode:
    """One small task, as rows of a collection.

    Attributes:
        classes: class ids of the K ways, int64 [K], in the order drawn.
        support: rows of the supports, int64 [S]; `support_way` [S] holds 0 .. K - 1.
        query: rows of the queries, int64 [Q]; `query_way` [Q] holds 0 .. K - 1.
    """

    classes: NDArray[numpy.int64]
    support: NDArray[numpy.int64]
    support_way: NDArray[numpy.int64]
    query: NDArray[numpy.int64]
    query_way: NDArray[numpy.int64]


@dataclass(frozen=True)
class EpisodeBatch:
    """E episodes as arrays of rows; -1 where a class has fewer queries.

    Attributes:
        classes: class ids, int64 [E, K].
        support: rows, int64 [E, K, shot].
        query: rows, int64 [E, K, query].
    """

    classes: NDArray[numpy.int64]
    support: NDArray[numpy.int64]
    query: NDArray[numpy.int64]


class FixedEpisodes:
    """Draws episodes from the photos of each class, without replacement within an episode.

    A class is drawn only if it has at least `shot` + 1 photos; one with fewer than `shot` + `query` gives the
    queries that it has.

    Args:
        by_class: rows of each class.
        way, shot, query: classes, supports a class, queries a class; each at least 1.
        seed, stream: of the draws.

    Raises:
        InvalidInput: a number is below 1, or too few classes have enough photos.
    """

    def __init__(
        self,
        by_class: Sequence[NDArray[numpy.int64]],
        way: int = 5,
        shot: int = 1,
        query: int = 15,
        *,
        seed: int = 0,
        stream: str = "episode",
    ) -> None:
        for name, value in (("way", way), ("shot", shot), ("query", query)):
            if value < 1:
                raise InvalidInput(f"{name} is {value}; expected at least 1.")
        self.way, self.shot, self.query, self.seed, self.stream = way, shot, query, seed, stream
        counts = numpy.array([len(rows) for rows in by_class], dtype=numpy.int64)
        self.eligible = numpy.flatnonzero(counts > shot)
        if len(self.eligible) < way:
            raise InvalidInput(
                f"{way}-way {shot}-shot episodes need {way} classes with at least {shot + 1} photos, and "
                f"{len(self.eligible)} of {len(by_class)} have as many. Give more photos, or a smaller way or shot."
            )
        self._counts = counts
        self._starts = numpy.concatenate([[0], numpy.cumsum(counts)[:-1]])
        self._rows = numpy.concatenate([numpy.asarray(rows, dtype=numpy.int64) for rows in by_class])
        self._key = stream_seed(seed, stream)

    def draw(self, first: int, last: int) -> EpisodeBatch:
        """Episodes first .. last - 1 at once."""
        episodes, taken = numpy.arange(first, last), self.shot + self.query
        random = words(self._key, episodes, self.way * (1 + taken))
        number = numpy.full(len(episodes), len(self.eligible))
        classes = self.eligible[distinct(random[:, : self.way], number)]  # [E, K]
        sizes = self._counts[classes].ravel()
        places = distinct(random[:, self.way :].reshape(-1, taken), sizes)  # [E K, taken]
        rows = numpy.where(places < 0, -1, self._rows[self._starts[classes].ravel()[:, None] + places])
        rows = rows.reshape(len(episodes), self.way, taken)
        return EpisodeBatch(classes, rows[:, :, : self.shot], rows[:, :, self.shot :])

    def __getitem__(self, index: int) -> Episode:
        """Episode `index`."""
        batch = self.draw(index, index + 1)
        query = batch.query[0]
        way = numpy.arange(self.way)
        there = query >= 0
        return Episode(
            batch.classes[0],
            batch.support[0].ravel(),
            numpy.repeat(way, self.shot),
            query[there],
            numpy.repeat(way, there.sum(1)),
        )
