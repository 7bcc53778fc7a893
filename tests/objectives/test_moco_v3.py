"""MoCo-v3: the plain form, what carries gradient, scale, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fewsight.errors import InvalidInput
from fewsight.objectives.moco_v3 import moco_v3_loss


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(q, k, temperature):
    logits = F.normalize(q, dim=1) @ F.normalize(k, dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(q))) * 2 * temperature


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_equals_the_plain_form(monkeypatch, dtype, tolerance):
    monkeypatch.setattr("fewsight.objectives.blocks.CPU_ELEMENTS", 16)
    q1, q2, k1, k2 = (random(7, 5, seed=seed, dtype=dtype).requires_grad_(True) for seed in range(4))
    loss = moco_v3_loss(q1, q2, k1, k2, 0.2)
    expected = plain(q1, k2.detach(), 0.2) + plain(q2, k1.detach(), 0.2)
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
    got, wanted = torch.autograd.grad(loss, (q1, q2)), torch.autograd.grad(expected, (q1, q2))
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def test_keys_get_no_gradient():
    q1, q2, k1, k2 = (random(3, 4, seed=seed).requires_grad_(True) for seed in range(4))
    moco_v3_loss(q1, q2, k1, k2, 1.0).backward()
    assert k1.grad is None
    assert k2.grad is None


def test_queries_meet_the_keys_of_the_other_view():
    a, b = random(5, 6), random(5, 6, seed=1)
    # q1 = k2 and q2 = k1 is the perfect answer; the same view twice is not.
    assert moco_v3_loss(a, b, b, a, 0.05) < moco_v3_loss(a, b, a, b, 0.05)


def test_gradient_scale_does_not_hang_on_the_temperature():
    q, k = random(64, 32).requires_grad_(True), random(64, 32, seed=1)
    norms = [torch.autograd.grad(moco_v3_loss(q, q, k, k, t), q)[0].norm() for t in (0.5, 1.0)]
    assert 0.5 < norms[0] / norms[1] < 2


def test_refuses():
    x = torch.ones(3, 4)
    with pytest.raises(InvalidInput, match="k2"):
        moco_v3_loss(x, x, x, torch.ones(4, 4), 0.2)
    with pytest.raises(InvalidInput, match="temperature"):
        moco_v3_loss(x, x, x, x, -0.2)
    with pytest.raises(InvalidInput, match="q1"):
        moco_v3_loss(x[:0], x[:0], x[:0], x[:0], 0.2)
