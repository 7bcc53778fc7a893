"""Thresholds of presence from scores of supports."""

from __future__ import annotations

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.heads.presence import presence_probability, presence_threshold, separation

NONE = torch.zeros(0)


def normal(count: int, mean: float, seed: int) -> torch.Tensor:
    return mean + 0.1 * torch.randn(count, generator=torch.Generator().manual_seed(seed))


def test_means_with_few_scores() -> None:
    found = presence_threshold(torch.tensor([0.8, 0.6]), torch.tensor([0.1]))
    assert found.rule == "means"
    assert found.value == pytest.approx(0.4)
    assert found.false_alarm_rate is None


def test_balanced_with_many_scores() -> None:
    positives, negatives = normal(30, 1.0, 0), normal(40, 0.0, 1)
    found = presence_threshold(positives, negatives)
    assert found.rule == "balanced"
    assert negatives.max() < found.value < positives.min()
    assert found.value == pytest.approx(float(negatives.max() + positives.min()) / 2)


def test_conformal_promise_holds_on_average() -> None:
    """Over fresh negatives the share above the threshold is at most alpha; 0.01 is three standard errors."""
    rates = []
    for seed in range(200):
        scores = normal(119, 0.0, seed)
        found = presence_threshold(NONE, scores[:19], alpha=0.1)
        assert (found.rule, found.false_alarm_rate) == ("conformal", 0.1)
        rates.append(float((scores[19:] > found.value).double().mean()))
    assert sum(rates) / len(rates) < 0.11


def test_too_few_to_promise() -> None:
    found = presence_threshold(torch.tensor([0.9]), torch.tensor([0.2, 0.5]), alpha=0.1)
    assert found[0] == 0.5
    assert (found.rule, found.false_alarm_rate) == ("largest", None)
    assert presence_threshold(NONE, torch.tensor([0.2]), default=0.4).value == 0.4
    assert presence_threshold(NONE, torch.arange(9.0), alpha=0.1).rule == "conformal"
    assert presence_threshold(NONE, torch.arange(8.0), alpha=0.1).rule == "largest"


def test_no_negatives() -> None:
    assert presence_threshold(NONE, NONE, default=0.3).value == 0.3
    found = presence_threshold(torch.tensor([0.9]), NONE, default=0.3)
    assert (found.rule, found.value) == ("level", pytest.approx(0.6))


def test_probability_is_a_half_at_the_threshold() -> None:
    threshold = presence_threshold(torch.tensor([0.8, 0.6]), torch.tensor([0.1, 0.3]))
    scores = torch.tensor(
        [threshold.value - 1e-3, threshold.value, threshold.value + 1e-3], dtype=torch.float64
    )
    probability = presence_probability(scores, threshold)
    assert probability[0] < 0.5 < probability[2]
    assert float(probability[1]) == pytest.approx(0.5, abs=1e-12)
    assert presence_probability(torch.tensor([-torch.inf]), threshold) == 0


def test_separation() -> None:
    assert separation(torch.arange(5.0) + 10, torch.arange(5.0)) == 1
    assert separation(torch.zeros(5), torch.zeros(5)) == 0.5
    assert separation(torch.zeros(4), torch.zeros(5)) is None


def test_equal_scores_everywhere() -> None:
    assert presence_threshold(torch.ones(25), torch.ones(25)).value == 1


def test_errors() -> None:
    with pytest.raises(InvalidInput, match="alpha"):
        presence_threshold(NONE, NONE, alpha=1)
    with pytest.raises(InvalidInput, match="NaN"):
        presence_threshold(torch.tensor([torch.nan]), NONE)
    with pytest.raises(InvalidInput, match="positives"):
        presence_threshold(torch.ones(1, 1), NONE)
