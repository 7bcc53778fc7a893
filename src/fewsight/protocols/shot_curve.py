"""Would more photos help? The same episodes with ever more of their supports.

Classes, queries and the order of supports are those of the episodes with most supports, so that each step of the curve
is a paired comparison. Queries related to any of the supports are left out at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from fewsight.backbones.features import Features
from fewsight.data.fixed_episodes import EpisodeBatch, FixedEpisodes
from fewsight.heads.head import Head
from fewsight.protocols.episodes import EpisodeResult, evaluate_episodes, without_relatives

__all__ = ["SHOTS", "curve_shots", "shot_curve"]

SHOTS = (1, 2, 5, 10, 20, 50)
LEAST_QUERIES = 5  # photos that a class must have beyond the largest shot


@dataclass(frozen=True)
class _FewerShots:
    """Episodes with the first supports alone."""

    episodes: FixedEpisodes
    shot: int
    groups: Sequence[NDArray[numpy.int64]]

    def draw(self, first: int, last: int) -> EpisodeBatch:
        batch, _ = without_relatives(self.episodes.draw(first, last), self.groups)
        return EpisodeBatch(batch.classes, batch.support[:, :, : self.shot], batch.query)


def curve_shots(sizes: Sequence[int], way: int) -> tuple[int, ...]:
    """The shots of `SHOTS` for which most classes, and at least `way`, have enough photos.

    >>> curve_shots([30, 30, 28, 40, 3], way=3)
    (1, 2, 5, 10, 20)
    """
    able = sum(size > LEAST_QUERIES for size in sizes)
    wanted = max(way, -(-able // 2))
    return tuple(shot for shot in SHOTS if sum(size >= shot + LEAST_QUERIES for size in sizes) >= wanted)


def shot_curve(
    head: Head,
    features: Features,
    by_class: Sequence[NDArray[numpy.int64]],
    shots: Sequence[int],
    count: int,
    *,
    way: int = 5,
    query: int = 15,
    groups: Sequence[NDArray[numpy.int64]] = (),
    seed: int = 0,
) -> list[EpisodeResult]:
    """What comes of `count` episodes at each of the ascending shots.

    Classes without `LEAST_QUERIES` photos beyond the largest shot are left out, so that all steps draw from the same.

    Args:
        head, features, by_class, groups: as in `evaluate_episodes`.
        shots: as `curve_shots` gives them.
        way, query: of the episodes.

    Raises:
        InvalidInput: fewer than `way` classes have enough photos.
    """
    largest = max(shots)
    able = [rows if len(rows) >= largest + LEAST_QUERIES else rows[:0] for rows in by_class]
    episodes = FixedEpisodes(able, way, largest, query, seed=seed, stream="shot curve")
    return [
        evaluate_episodes(head, features, by_class, _FewerShots(episodes, shot, groups), count)
        for shot in shots
    ]
