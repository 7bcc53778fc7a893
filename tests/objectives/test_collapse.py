"""Means against collapse: what each does to targets and loss, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.objectives.assignments import assign, me_max, update_center
from fewsight.objectives.collapse import AVOIDANCES, CollapseAvoidance, softmax_sum, student_spread


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("method", AVOIDANCES)
def test_targets_are_those_of_the_shared_mathematics(method):
    avoidance = CollapseAvoidance(6, method).double()
    scores = logits(2, 5, 6)
    center = torch.zeros(6).double() if "centring" in method else None
    plain = method.split("+")[0].replace("memax", "none")
    torch.testing.assert_close(avoidance.targets(scores, 0.1), assign(scores, plain, 0.1, center))
    assert avoidance.adds_spread == ("memax" in method)
    assert (avoidance.center is None) == ("centring" not in method)


def test_the_centre_is_that_of_update_center_over_all_that_was_seen():
    avoidance = CollapseAvoidance(6, "centring", center_momentum=0.8).double().train()
    first, second = logits(2, 5, 6), logits(3, 6, seed=1)
    avoidance.observe(first)
    avoidance.observe_sum(second.sum(0), len(second))
    avoidance.after_step()
    rows = torch.cat([first.flatten(0, 1), second])
    torch.testing.assert_close(avoidance.center, update_center(torch.zeros(6).double(), rows, 0.8))


def test_sums_of_softmaxes_and_their_gradient():
    values = logits(7, 5).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: softmax_sum(x, 0.3), values)
    torch.testing.assert_close(softmax_sum(values, 0.3), torch.softmax(values / 0.3, dim=1).sum(0))


def test_the_spread_is_me_max_of_the_same_distributions():
    values = logits(2, 7, 5).requires_grad_(True)
    spread, plain = student_spread(values, 0.2), me_max(torch.softmax(values / 0.2, -1).flatten(0, 1))
    torch.testing.assert_close(spread, plain)
    got, wanted = (torch.autograd.grad(loss, values)[0] for loss in (spread, plain))
    torch.testing.assert_close(got, wanted)


def test_the_spread_tells_dominance_from_balance():
    dominated = torch.zeros(8, 4)
    dominated[:, 0] = 50
    assert student_spread(dominated, 1.0).item() == pytest.approx(math.log(4), rel=1e-5)
    assert student_spread(50 * torch.eye(4), 1.0).item() == pytest.approx(0, abs=1e-6)


def test_large_logits_stay_finite():
    values = (1e3 * logits(6, 5)).float().requires_grad_(True)
    spread = student_spread(values, 0.05)
    spread.backward()
    assert torch.isfinite(spread)
    assert torch.isfinite(values.grad).all()


@pytest.mark.parametrize("method", ["centring+sinkhorn", "centering", ""])
def test_unknown_and_redundant_means_are_refused(method):
    with pytest.raises(InvalidInput, match="collapse"):
        CollapseAvoidance(4, method)
