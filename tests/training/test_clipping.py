"""The three rules, against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewsight.training.clipping import clip_gradients, gradient_norm


def parameters() -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(3))]
    made[0].grad, made[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([0.5])
    return made


def test_norm_leaves_missing_gradients_out() -> None:
    assert gradient_norm(parameters()).item() == pytest.approx(25.25**0.5)
    assert gradient_norm([]).item() == 0


def test_global_equals_torch() -> None:
    ours, theirs = parameters(), parameters()
    clip_gradients(ours, 1.0)
    nn.utils.clip_grad_norm_(theirs, 1.0)
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]
    clip_gradients(ours, 5.0)
    assert torch.equal(ours[0].grad, theirs[0].grad)  # type: ignore[arg-type]


def test_parameter_shortens_each_by_its_own_norm() -> None:
    made = parameters()
    clip_gradients(made, 1.0, "parameter")
    torch.testing.assert_close(made[0].grad, torch.tensor([0.6, 0.8]), rtol=1e-6, atol=0)
    assert made[1].grad is not None
    assert made[1].grad.item() == 0.5, "its own norm is below the limit"


def test_normalise_lengthens_too_and_has_a_floor() -> None:
    made = parameters()
    clip_gradients(made, 7.0, "normalise")
    assert gradient_norm(made).item() == pytest.approx(7.0)
    tiny = nn.Parameter(torch.zeros(1))
    tiny.grad = torch.full((1,), 1e-4)
    clip_gradients([tiny], 1.0, "normalise")
    assert tiny.grad.item() == pytest.approx(1e-4 / 1e-5**0.5)
