"""Numbers behind the drawings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fewsight.report.doubt import doubt
from fewsight.report.plots import class_colour, risk_coverage
from report.pages import answer


def rows_with_truth(count: int, seed: int = 0, decimals: int = 6):
    generator = np.random.default_rng(seed)
    return [
        answer(
            f"{i}.jpg",
            round(float(score), decimals),
            truth=("heron" if generator.random() < score else "ibis",),
        )
        for i, score in enumerate(generator.uniform(0.5, 1, count))
    ]


def test_risk_at_each_point_is_the_plain_count() -> None:
    rows = rows_with_truth(120)
    curve = risk_coverage(rows, points=10**6)
    assert curve is not None
    ordered = sorted(rows, key=doubt)
    for coverage, risk in zip(curve.coverage, curve.risk, strict=True):
        kept = ordered[: round(coverage * 120)]
        # the same division of the same integers
        assert risk == sum(row.truth != ("heron",) for row in kept) / len(kept)
    assert curve.coverage[-1] == 1.0
    assert curve.at(1.0) == curve.wrong / curve.answered


def test_equal_doubt_enters_together_whatever_the_order() -> None:
    rows = rows_with_truth(100, decimals=1)
    forwards, backwards = risk_coverage(rows), risk_coverage(rows[::-1])
    assert forwards == backwards
    assert forwards is not None
    assert len(forwards.coverage) == len({doubt(row) for row in rows})


def test_many_rows_give_few_points() -> None:
    curve = risk_coverage(rows_with_truth(5000), points=50)
    assert curve is not None
    assert 40 <= len(curve.coverage) <= 51


def test_no_truth_no_curve() -> None:
    assert risk_coverage([answer("a.jpg", 0.9)]) is None


@pytest.mark.parametrize("count", [1, 10, 11, 400])
def test_neighbouring_classes_have_different_colours(count: int) -> None:
    colours = [class_colour(index, count) for index in range(count)]
    assert all(first != second for first, second in itertools.pairwise(colours))
    assert len(set(colours[:60])) == min(count, 60)
