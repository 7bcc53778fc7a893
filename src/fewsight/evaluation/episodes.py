"""Figures of methods over episodes: ranks as in the leaderboard of Meta-Dataset."""

from __future__ import annotations

from typing import NamedTuple

import numpy
from numpy.typing import ArrayLike, NDArray

from fewsight.errors import InvalidInput

__all__ = ["LeaderboardRanks", "leaderboard_ranks"]


class LeaderboardRanks(NamedTuple):
    """Rank of each method on each data set `[M, D]`, 1 = best, and the mean over data sets `[M]`."""

    ranks: NDArray[numpy.float64]
    average_rank: NDArray[numpy.float64]


def leaderboard_ranks(means: ArrayLike, half_widths: ArrayLike) -> LeaderboardRanks:
    """Ranks with ties where a difference is not significant (Triantafillou et al. 2020, leaderboard).

    The best method left ties with every method whose mean lies within sqrt(h_a^2 + h_b^2) of its own; the group shares
    the mean of the ranks that it takes up. Ties are with the best of the group only: they are not transitive.

    Args:
        means: `[M, D]`, larger is better.
        half_widths: of the 95 % intervals `[M, D]`, at least 0.

    Raises:
        InvalidInput: shapes disagree, or a number is negative or not finite.

    >>> leaderboard_ranks([[50.0], [49.0], [40.0]], [[1.0], [1.0], [1.0]]).average_rank
    array([1.5, 1.5, 3. ])
    """
    scores, widths = (numpy.asarray(array, dtype=numpy.float64) for array in (means, half_widths))
    if scores.ndim != 2 or not scores.size:
        raise InvalidInput(f"means has shape {scores.shape}; expected [M, D], methods by data sets.")
    if widths.shape != scores.shape or not (widths >= 0).all():
        raise InvalidInput(
            f"half_widths has shape {widths.shape}; expected {scores.shape}, numbers of at least 0."
        )
    if not numpy.isfinite(scores).all() or not numpy.isfinite(widths).all():
        raise InvalidInput("means and half_widths must be finite; leave out methods without a figure.")
    ranks = numpy.stack([_ranks(*columns) for columns in zip(scores.T, widths.T, strict=True)], axis=1)
    return LeaderboardRanks(ranks, ranks.mean(1))


def _ranks(means: NDArray[numpy.float64], widths: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    ranks = numpy.zeros(len(means))
    left = numpy.ones(len(means), dtype=bool)
    following = 1
    while left.any():
        best = numpy.where(left, means, -numpy.inf).argmax()
        tied = left & (numpy.abs(means - means[best]) <= numpy.sqrt(widths**2 + widths[best] ** 2))
        ranks[tied] = following + (tied.sum() - 1) / 2
        following += tied.sum()
        left &= ~tied
    return ranks
