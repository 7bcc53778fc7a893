"""Intervals and paired comparisons."""

import math

import numpy
import pytest

from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import (
    Interval,
    compare,
    group_bootstrap,
    mean_interval,
    paired_interval,
    proportion_interval,
    share_interval,
)


def test_shares_stay_between_nothing_and_all() -> None:
    wide = share_interval([0.1, 0.9])
    assert (wide.mean, wide.low, wide.high, wide.n) == (0.5, 0.0, 1.0, 2)
    plain = [0.5, 0.55, 0.6, 0.52]
    assert share_interval(plain) == mean_interval(plain)
    assert numpy.isnan(share_interval([0.5]).low)


def test_three_values_have_students_interval():
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.half_width == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)  # t of 2 degrees, table
    assert interval.mean == 2


def test_intervals_hold_the_mean_as_often_as_they_say():
    generator = numpy.random.default_rng(0)
    intervals = [mean_interval(generator.normal(size=5)) for _ in range(1000)]
    held = sum(interval.low <= 0 <= interval.high for interval in intervals)
    assert 930 <= held <= 970  # 950 with a standard error of 7


def test_one_value_says_nothing_about_the_spread():
    assert math.isnan(mean_interval([0.5]).low)
    assert math.isnan(mean_interval([]).mean)
    assert mean_interval([]).percent() == "not judged"
    assert mean_interval([0.5]).percent() == "50.0 %"


@pytest.mark.parametrize(("right", "count"), [(0, 1), (0, 9), (5, 9), (9, 9), (899, 900)])
def test_wilson_solves_its_equation(right, count):
    interval = proportion_interval(right, count)
    for end in (interval.low, interval.high):
        if 0 < end < 1:
            distance = (right / count - end) / math.sqrt(end * (1 - end) / count)
            assert abs(distance) == pytest.approx(1.959964, rel=1e-5)
    assert 0 <= interval.low <= right / count <= interval.high <= 1


def test_groups_that_hang_together_widen_the_interval():
    generator = numpy.random.default_rng(0)
    values = numpy.repeat(generator.random(20) < 0.6, 30).astype(float)
    together = group_bootstrap(values, [index // 30 for index in range(600)])
    apart = group_bootstrap(values, list(range(600)))
    assert together.half_width > 3 * apart.half_width
    assert together.n == 20
    assert together == group_bootstrap(values, [index // 30 for index in range(600)])
    assert math.isnan(group_bootstrap([1.0, 0.0], ["a", "a"]).low)


def test_pairs_show_what_means_cannot():
    generator = numpy.random.default_rng(0)
    hard = generator.random(100)
    comparison = compare(hard + 0.02 + generator.normal(0, 0.01, 100), hard, names=("ours", "theirs"))
    assert comparison.shown
    assert comparison.first.low < comparison.second.high
    assert comparison.sentence.startswith("ours is better than theirs by 1.9 points")
    back = compare(hard, hard + 0.02, names=("ours", "theirs"))
    assert back.sentence.startswith("theirs is better than ours by 2.0 points (95 % interval 2.0 to 2.0")
    assert not compare(hard, generator.random(100)).shown
    assert compare(hard, generator.random(100)).sentence.startswith("No difference shown")
    assert compare([0.1], [0.2]).sentence.startswith("Not judged")


def test_paired_answers_have_the_interval_of_bonett_and_price():
    gained, lost, same = 9, 3, 28
    interval = paired_interval([1.0] * gained + [-1.0] * lost + [0.0] * same)
    one, other, size = (gained + 1) / 42, (lost + 1) / 42, 42
    spread = math.sqrt((one + other - (one - other) ** 2) / size)
    assert interval.mean == pytest.approx(6 / 40)
    assert interval.half_width == pytest.approx(2.0227 * spread, rel=1e-4)  # t of 39 degrees, table
    assert (interval.low + interval.high) / 2 == pytest.approx(one - other)


@pytest.mark.parametrize("count", [10, 30, 200])
def test_paired_intervals_hold_the_difference_as_often_as_they_say(count):
    generator = numpy.random.default_rng(count)
    held = 0
    for _ in range(1000):
        values = generator.choice([1.0, 0.0, -1.0], size=count, p=[0.15, 0.8, 0.05])
        interval = paired_interval(values)
        held += interval.low <= 0.1 <= interval.high
    assert held >= 935  # 950 are promised, less two standard deviations


def test_photos_of_a_group_count_as_one_difference():
    values = numpy.repeat([1.0, 0.0, 0.0, -1.0, 1.0, 0.0], 10)
    apart, single = paired_interval(values), paired_interval(values, list(range(60)))
    together = paired_interval(values, [index // 10 for index in range(60)])
    assert apart == single
    assert together.n == 6
    assert together.half_width > 2 * apart.half_width
    assert math.isnan(paired_interval([1.0, 0.0], ["a", "a"]).low)


def test_wrong_input():
    for call in (
        lambda: paired_interval([1.5]),
        lambda: paired_interval([0.5], ["a", "b"]),
        lambda: mean_interval([math.nan]),
        lambda: mean_interval([0.1], confidence=1.0),
        lambda: proportion_interval(3, 2),
        lambda: group_bootstrap([0.1], ["a", "b"]),
        lambda: group_bootstrap([0.1], ["a"], draws=0),
        lambda: compare([0.1], [0.1, 0.2]),
    ):
        with pytest.raises(InvalidInput):
            call()


def test_text():
    assert Interval(0.5, 0.4, 0.6, 10).percent() == "50.0 % (40.0 to 60.0)"
