"""Leaderboard ranks: groups, ties with the best only, errors."""

import numpy
import pytest

from fewsight.errors import InvalidInput
from fewsight.evaluation.episodes import leaderboard_ranks


def test_clear_differences_rank_by_mean():
    means = numpy.array([[3.0, 30], [1, 10], [2, 20]])
    ranks = leaderboard_ranks(means, numpy.full((3, 2), 0.01))
    assert ranks.ranks.tolist() == [[1, 1], [3, 3], [2, 2]]
    assert ranks.average_rank.tolist() == [1, 3, 2]


def test_wide_intervals_tie_all_and_ranks_always_add_up():
    generator = numpy.random.default_rng(0)
    for width in (0.0, 0.5, 5.0, 500.0):
        means = generator.normal(50, 5, (7, 4))
        ranks = leaderboard_ranks(means, numpy.full((7, 4), width)).ranks
        assert (ranks.sum(0) == 28).all()
        assert width < 500 or (ranks == 4).all()


def test_ties_are_with_the_best_of_the_group():
    ranks = leaderboard_ranks([[50], [49], [48], [47.5]], [[0.8]] * 4).ranks[:, 0]
    assert ranks.tolist() == [1.5, 1.5, 3.5, 3.5]
    edge = leaderboard_ranks([[5.0], [0.0]], [[3.0], [4.0]]).ranks[
        :, 0
    ]  # a difference of exactly the bound ties
    assert edge.tolist() == [1.5, 1.5]


@pytest.mark.parametrize(
    ("means", "widths"),
    [([1.0], [1.0]), ([[1.0]], [[1.0, 2.0]]), ([[1.0]], [[-1.0]]), ([[float("nan")]], [[1.0]]), ([[]], [[]])],
)
def test_errors(means, widths):
    with pytest.raises(InvalidInput, match=r"means|half_widths"):
        leaderboard_ranks(means, widths)
