import math

import numpy
import pytest

from fewsight.errors import InvalidInput
from fewsight.evaluation.resampled import Resampled, compare_resampled


def drawn(value: float, shift: float = 0.0, n: int = 50) -> Resampled:
    again = 0.5 + 0.1 * numpy.random.default_rng(0).standard_normal(400) + shift
    return Resampled(value, again, n)


def test_the_interval_lies_about_the_figure_not_about_the_draws():
    found = drawn(0.6).interval
    assert found.mean == 0.6
    assert found.low == pytest.approx(0.6 - 0.196, abs=0.02)
    assert found.high == pytest.approx(0.6 + 0.196, abs=0.02)


def test_pairs_leave_out_what_a_draw_does_to_both():
    found = compare_resampled(drawn(0.55, 0.05), drawn(0.5), names=("a", "b"))
    assert found.difference.mean == pytest.approx(0.05)
    assert found.difference.low == pytest.approx(0.05)
    assert found.shown
    assert found.first.high - found.first.low > 0.3  # each alone would show nothing
    assert "50 paired photos" in found.sentence


def test_a_negative_difference_is_kept():
    found = compare_resampled(drawn(0.2, -0.3), drawn(0.5), names=("a", "b")).difference
    assert found.high == pytest.approx(-0.3)


def test_draws_that_do_not_allow_the_figure_are_left_out():
    found = Resampled(0.5, numpy.array([0.4, math.nan, 0.6]), 9).interval
    assert found.low == pytest.approx(0.405)
    assert math.isnan(Resampled(0.5, numpy.array([math.nan]), 9).interval.low)
    assert math.isnan(Resampled(0.5, numpy.array([0.4, 0.6]), 1).interval.low)


def test_unlike_draws_are_no_pairs():
    with pytest.raises(InvalidInput, match="400 draws of 49 photos"):
        compare_resampled(drawn(0.5), drawn(0.5, n=49), names=("a", "b"))
