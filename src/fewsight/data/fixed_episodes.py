"""Episodes of a fixed way, shot and number of queries: episode i is a function of (seed, stream, i) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from fewsight.errors import InvalidInput
from fewsight.seeding import numpy_generator

__all__ = ["Episode", "FixedEpisodes"]


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

    by_class: Sequence[NDArray[numpy.int64]]
    way: int = 5
    shot: int = 1
    query: int = 15
    seed: int = 0
    stream: str = "episode"

    def __post_init__(self) -> None:
        for name in ("way", "shot", "query"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; expected at least 1.")
        able = self.eligible
        if len(able) < self.way:
            raise InvalidInput(
                f"{self.way}-way {self.shot}-shot episodes need {self.way} classes with at least {self.shot + 1} photos, "
                f"and {len(able)} of {len(self.by_class)} have as many. Give more photos, or a smaller way or shot."
            )

    @property
    def eligible(self) -> list[int]:
        """Class ids with at least shot + 1 photos."""
        return [number for number, rows in enumerate(self.by_class) if len(rows) > self.shot]

    def __getitem__(self, index: int) -> Episode:
        """Episode `index`."""
        generator = numpy_generator(self.seed, self.stream, index)
        eligible = numpy.asarray(self.eligible)
        classes = eligible[generator.choice(len(eligible), self.way, replace=False, shuffle=True)]
        support, query = [], []
        for number in classes:
            rows = self.by_class[number]
            taken = min(len(rows), self.shot + self.query)
            drawn = rows[generator.choice(len(rows), taken, replace=False, shuffle=True)]
            support.append(drawn[: self.shot])
            query.append(drawn[self.shot :])
        ways = numpy.arange(self.way)
        return Episode(
            classes,
            numpy.concatenate(support),
            numpy.repeat(ways, [len(rows) for rows in support]),
            numpy.concatenate(query),
            numpy.repeat(ways, [len(rows) for rows in query]),
        )
