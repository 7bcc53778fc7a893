"""MSN: the plain probability form, the closed gradients, extremes, errors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fewsight.errors import InvalidInput
from fewsight.objectives.assignments import sinkhorn as balance
from fewsight.objectives.msn import msn_loss


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain_msn(anchors, targets, prototypes, temperature, sharpening, sinkhorn):
    a, h, c = (F.normalize(x, dim=1) for x in (anchors, targets, prototypes))
    q = torch.softmax(a @ c.T / temperature, dim=1)
    p = torch.softmax(h @ c.T / temperature, dim=1) ** (1 / sharpening)
    p = p / p.sum(dim=1, keepdim=True)
    p = (balance(p.log(), 1.0, 3) if sinkhorn else p).repeat(len(a) // len(h), 1).detach()
    mean = q.mean(dim=0)
    cross_entropy, entropy = -(p * q.log()).sum(dim=1).mean(), -(q * q.log()).sum(dim=1).mean()
    return cross_entropy, math.log(len(c)) + (mean * mean.log()).sum(), entropy, p


@pytest.mark.parametrize("sinkhorn", [False, True])
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (4.0, 0.5), (0.0, 1.0), (1.0, 0.0)])
def test_equals_the_plain_form(monkeypatch, sinkhorn, views, weights):
    monkeypatch.setattr("fewsight.objectives.blocks.CPU_ELEMENTS", 18)  # blocks of two rows
    anchors, prototypes = random(4 * views, 5).requires_grad_(True), random(9, 5, seed=1).requires_grad_(True)
    targets = random(4, 5, seed=2)
    losses = msn_loss(anchors, targets, prototypes, 0.1, 0.25, sinkhorn, 3, *weights)
    expected = plain_msn(anchors, targets, prototypes, 0.1, 0.25, sinkhorn)
    for got, wanted in zip(losses, expected, strict=True):
        torch.testing.assert_close(got, wanted)
    total = losses.cross_entropy + weights[0] * losses.me_max + weights[1] * losses.entropy
    wanted = expected[0] + weights[0] * expected[1] + weights[1] * expected[2]
    torch.testing.assert_close(
        torch.autograd.grad(total, (anchors, prototypes)), torch.autograd.grad(wanted, (anchors, prototypes))
    )


def test_gradient_by_finite_differences():
    anchors, prototypes = random(4, 3).requires_grad_(True), random(5, 3, seed=1).requires_grad_(True)

    def weighted(a, c):
        losses = msn_loss(a, targets, c, 0.3, 0.25, False, 3, 2.0, 0.7)
        return losses.cross_entropy + 2.0 * losses.me_max + 0.7 * losses.entropy

    # Targets follow the prototypes without gradient, so the check moves anchors alone, then fixes the targets.
    targets = random(2, 3, seed=2)
    fixed = prototypes.detach()
    assert torch.autograd.gradcheck(lambda a: weighted(a, fixed), (anchors,))


@pytest.mark.parametrize("temperature", [1e-3, 5e-4])
def test_underflow_stays_finite_in_float32(temperature):
    anchors = random(8, 6, dtype=torch.float32).requires_grad_(True)
    prototypes = random(16, 6, seed=1, dtype=torch.float32).requires_grad_(True)
    targets = random(4, 6, seed=2, dtype=torch.float32)
    for sinkhorn in (False, True):
        losses = msn_loss(anchors, targets, prototypes, temperature, 0.25, sinkhorn, 3, 1.0, 1.0)
        gradients = torch.autograd.grad(
            losses.cross_entropy + losses.me_max + losses.entropy, (anchors, prototypes)
        )
        assert all(torch.isfinite(value).all() for value in (*losses, *gradients))


def test_inputs_are_normalised_and_half_precision_is_raised():
    anchors, targets, prototypes = random(4, 5), random(4, 5, seed=1), random(6, 5, seed=2)
    losses = msn_loss(anchors, targets, prototypes, 0.1, 0.25, True, 3, 1.0, 1.0)
    scaled = msn_loss(1e3 * anchors, 1e-3 * targets, 7 * prototypes, 0.1, 0.25, True, 3, 1.0, 1.0)
    for got, wanted in zip(scaled, losses, strict=True):
        torch.testing.assert_close(got, wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halves = msn_loss(anchors.half(), targets.half(), prototypes.half(), 0.1, 0.25, True, 3, 1.0, 1.0)
    assert halves.cross_entropy.dtype == torch.float32
    torch.testing.assert_close(halves.cross_entropy.double(), losses.cross_entropy, rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"anchors": torch.ones(5, 3)}, "anchors"),
        ({"anchors": torch.ones(0, 3)}, "anchors"),
        ({"prototypes": torch.ones(4, 2)}, "prototypes"),
        ({"temperature": 0.0}, "temperature"),
        ({"sharpening": math.nan}, "sharpening"),
    ],
)
def test_refuses(change, name):
    given = {
        "anchors": torch.ones(4, 3),
        "targets": torch.ones(2, 3),
        "prototypes": torch.ones(4, 3),
        "temperature": 0.1,
        "sharpening": 0.25,
        "sinkhorn": True,
        "sinkhorn_iterations": 3,
        "me_max_weight": 1.0,
        "entropy_weight": 0.0,
    }
    with pytest.raises(InvalidInput, match=name):
        msn_loss(**(given | change))
