"""NT-Xent and the blockwise contrastive sum: the plain 2B x 2B form, known values, extremes, memory, errors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fewsight.errors import InvalidInput
from fewsight.objectives.info_nce import contrastive_sum
from fewsight.objectives.simclr import nt_xent


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain_nt_xent(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    scores = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    B = len(z1)
    positives = torch.cat([torch.arange(B, 2 * B), torch.arange(B)])
    return F.cross_entropy(scores, positives)


@pytest.mark.parametrize("B", [1, 2, 5, 17])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_value_and_gradient_equal_the_plain_form(monkeypatch, B, temperature, dtype, tolerance):
    monkeypatch.setattr("fewsight.objectives.blocks.CPU_ELEMENTS", 6 * B)  # blocks of three rows
    z1, z2 = (
        random(B, 8, dtype=dtype).requires_grad_(True),
        random(B, 8, seed=1, dtype=dtype).requires_grad_(True),
    )
    loss, expected = nt_xent(z1, z2, temperature), plain_nt_xent(z1, z2, temperature)
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
    for got, wanted in zip(
        torch.autograd.grad(3 * loss, (z1, z2)), torch.autograd.grad(3 * expected, (z1, z2)), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=tolerance, atol=10 * tolerance)


def test_gradient_by_finite_differences():
    z1, z2 = random(4, 3).requires_grad_(True), random(4, 3, seed=1).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3), (z1, z2))


def test_known_values():
    B, temperature = 8, 0.1
    same = torch.ones(B, 4)
    assert nt_xent(same, same, temperature).item() == pytest.approx(math.log(2 * B - 1), rel=1e-6)
    aligned = torch.eye(B, dtype=torch.float64)
    expected = math.log(1 + (2 * B - 2) * math.exp(-1 / temperature))
    assert nt_xent(aligned, aligned, temperature).item() == pytest.approx(expected, rel=1e-4)


def test_views_and_images_are_exchangeable():
    z1, z2 = random(6, 5), random(6, 5, seed=1)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    loss = nt_xent(z1, z2, 0.2)
    torch.testing.assert_close(nt_xent(z2, z1, 0.2), loss)
    torch.testing.assert_close(nt_xent(z1[order], z2[order], 0.2), loss)
    assert not torch.isclose(nt_xent(z1[order], z2, 0.2), loss, rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_norms_do_not_matter(scale):
    z1, z2 = random(6, 5, dtype=torch.float32), random(6, 5, seed=1, dtype=torch.float32)
    torch.testing.assert_close(nt_xent(scale * z1, scale * z2, 0.1), nt_xent(z1, z2, 0.1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_work_in_float32(dtype):
    z1, z2 = random(6, 5, dtype=torch.float32).to(dtype), random(6, 5, seed=1, dtype=torch.float32).to(dtype)
    z1.requires_grad_(True)
    expected = nt_xent(z1.float(), z2.float(), 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(z1, z2, 0.1)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    assert z1.grad.dtype == dtype


def test_zero_rows_are_finite():
    z1 = torch.zeros(3, 4, requires_grad=True)
    nt_xent(z1, torch.ones(3, 4), 0.1).backward()
    assert z1.grad.isfinite().all()


def test_no_gradient_is_made_where_none_is_wanted():
    queries, keys = (
        F.normalize(random(4, 3), dim=1).requires_grad_(True),
        F.normalize(random(5, 3, seed=1), dim=1),
    )
    positives = torch.tensor([0, 1, 4, 2])
    loss = contrastive_sum(queries, keys, positives, 0.2)
    expected = F.cross_entropy(queries @ keys.T / 0.2, positives, reduction="sum")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, queries), torch.autograd.grad(expected, queries))


@pytest.mark.parametrize(
    ("z1", "z2", "temperature", "name"),
    [
        ((3, 4), (4, 4), 0.1, "z2"),
        ((3, 4), (3, 5), 0.1, "z2"),
        ((0, 4), (0, 4), 0.1, "z1"),
        ((3, 4, 1), (3, 4, 1), 0.1, "z1"),
        ((3, 4), (3, 4), 0.0, "temperature"),
        ((3, 4), (3, 4), math.inf, "temperature"),
    ],
)
def test_refuses(z1, z2, temperature, name):
    with pytest.raises(InvalidInput, match=name):
        nt_xent(torch.ones(z1), torch.ones(z2), temperature)
