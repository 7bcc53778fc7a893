"""Doubt, and the order in which photos are shown."""

from __future__ import annotations

import numpy as np
import pytest

from fewsight.predictions import Prediction
from fewsight.report.doubt import certainty, doubt, doubtful_first, doubts
from report.pages import answer


@pytest.mark.parametrize(("score", "word"), [(0.55, "in doubt"), (0.75, "fairly sure"), (0.95, "sure")])
def test_certainty_in_words(score: float, word: str) -> None:
    assert certainty(answer("a.jpg", score)) == word


def test_doubt_stays_in_the_unit_interval_and_is_full_without_a_score() -> None:
    assert doubt(Prediction("a.jpg", "ok", label="heron")) == 1.0
    assert doubt(Prediction("a.jpg", "ok", label="heron", score=float("nan"))) == 1.0
    # a runner-up that is above the label, as a rounding may leave it
    assert (
        doubt(Prediction("a.jpg", "ok", label="a", score=0.5, runner_up="b", runner_up_score=0.5001)) == 1.0
    )


def test_order_is_that_of_a_plain_sort() -> None:
    scores = np.random.default_rng(0).uniform(0.5, 1, 200).round(2)  # rounded, so that some are equal
    rows = [answer(f"{index}.jpg", score) for index, score in enumerate(scores)]
    expected = sorted(range(200), key=lambda index: (-doubt(rows[index]), index))
    levels = doubts(rows)
    assert doubtful_first(levels) == expected
    assert doubtful_first(levels, limit=7) == expected[:7]


def test_rejected_photos_nearest_to_the_bar_come_first_and_do_not_crowd_out_answers() -> None:
    rejected = [Prediction(f"{i}.jpg", "rejected", novelty=i / 10) for i in range(10)]
    rows = [*rejected, answer("in doubt.jpg", 0.55), answer("sure.jpg", 0.99)]
    levels = doubts(rows)
    order = doubtful_first(levels)
    assert order[0] == 0  # the least novel one
    assert [index for index in order if index < 10] == list(range(10))
    assert order.index(10) < 3
    assert order[-1] == 11


def test_rows_without_an_answer_have_no_doubt() -> None:
    rows = [Prediction("a.jpg", status) for status in ("unreadable", "refused", "duplicate")]
    assert doubts(rows) == {}
    assert doubts([]) == {}
