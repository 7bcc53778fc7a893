"""Assignments and means against collapse: plain oracles, properties, extremes, gradients, errors."""

from __future__ import annotations

import math

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.objectives import assignments
from fewsight.objectives.assignments import assign, assign_patches, koleo, me_max, sinkhorn, update_center


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain_sinkhorn(scores, temperature, iterations):
    """SwAV's form, on the matrix itself."""
    Q = torch.exp(scores / temperature)
    Q = Q / Q.sum()
    B, K = Q.shape
    for _ in range(iterations):
        Q = Q / Q.sum(dim=0, keepdim=True) / K
        Q = Q / Q.sum(dim=1, keepdim=True) / B
    return Q * B


@pytest.mark.parametrize(("B", "K"), [(1, 1), (3, 7), (40, 5), (70, 300)])
@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
def test_sinkhorn_equals_the_plain_form(monkeypatch, B, K, iterations):
    # Blocks of one or two rows, so that the sweep is what is tested.
    monkeypatch.setattr("fewsight.objectives.blocks.CPU_ELEMENTS", 4 * K)
    scores = random(B, K)
    expected = plain_sinkhorn(scores, 0.1, iterations)
    torch.testing.assert_close(sinkhorn(scores, 0.1, iterations), expected, rtol=1e-10, atol=1e-300)


def test_sinkhorn_on_logarithms_equals_scaling_vectors():
    scores = random(9, 6)
    expected = sinkhorn(scores, 0.2, 3)
    torch.testing.assert_close(assignments._log_sinkhorn(scores, 0.2, 3), expected, rtol=1e-10, atol=0)


def test_sinkhorn_marginals_and_bound():
    B, K = 8, 32
    p = sinkhorn(random(B, K) / 10, 0.05, 200)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(B, dtype=p.dtype))
    # Converged: each prototype has B / K of the rows, so no entry can exceed it.
    torch.testing.assert_close(p.sum(dim=0), torch.full((K,), B / K, dtype=p.dtype), rtol=1e-6, atol=0)
    assert p.max() <= B / K + 1e-6


def test_sinkhorn_prevents_dominance_where_softmax_does_not():
    scores = random(16, 4) / 10
    scores[:, 0] += 1
    assert assign(scores, "none", 0.05).mean(dim=0)[0] > 0.99
    assert sinkhorn(scores, 0.05, 3).mean(dim=0)[0] < 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3, 1e6])
def test_sinkhorn_is_finite_at_any_scale(dtype, scale):
    p = sinkhorn(random(12, 20, dtype=dtype) * scale, 0.05, 3)
    assert p.isfinite().all()
    torch.testing.assert_close(p.sum(dim=1), torch.ones(12, dtype=dtype))


def test_sinkhorn_with_one_row_far_above_the_others():
    # exp overflows for row 0 and underflows for the rest in one common scale; both paths must agree with float64.
    scores = random(6, 5) / 10
    scores[0] += 50
    expected = assignments._log_sinkhorn(scores, 0.05, 3)
    torch.testing.assert_close(sinkhorn(scores, 0.05, 3), expected, rtol=1e-9, atol=1e-300)
    # float32 holds scores / temperature = 1000 to 6e-5.
    torch.testing.assert_close(sinkhorn(scores.float(), 0.05, 3).double(), expected, rtol=1e-3, atol=1e-6)


def test_sinkhorn_row_and_column_constants_vanish_in_the_limit():
    scores = random(7, 4)
    moved = scores + random(7, 1, seed=1) + random(1, 4, seed=2)
    torch.testing.assert_close(sinkhorn(moved, 0.5, 300), sinkhorn(scores, 0.5, 300), rtol=1e-6, atol=1e-9)


def test_sinkhorn_accepts_log_of_zero():
    probabilities = torch.tensor([[0.0, 0.5, 0.5], [0.0, 1.0, 0.0]])
    p = sinkhorn(probabilities.log(), 1.0, 50)
    assert p.isfinite().all()
    assert (p[:, 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["none", "sinkhorn"])
def test_assign_works_in_float32_for_half_precision(dtype, method):
    scores = random(4, 6, dtype=torch.float32).to(dtype) * 100
    p = assign(scores, method, 0.04)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p, assign(scores.float(), method, 0.04))


def test_assign_takes_views_as_one_batch_and_leaves_inputs_alone():
    scores = random(2, 5, 6)
    before = scores.clone()
    joined = assign(scores, "sinkhorn", 0.1)
    torch.testing.assert_close(joined.flatten(0, 1), sinkhorn(scores.flatten(0, 1), 0.1, 3))
    center = random(6, seed=1)
    expected = torch.softmax((scores - center) / 0.1, dim=-1)
    torch.testing.assert_close(assign(scores, "centring", 0.1, center=center), expected)
    assert scores.equal(before)


def test_assignments_carry_no_gradient():
    scores = random(3, 4).requires_grad_(True)
    assert not assign(scores, "none", 0.1).requires_grad
    assert not sinkhorn(scores, 0.1, 3).requires_grad


def test_patches_are_balanced_by_position():
    # Each position prefers its own prototype: balance by position must break that, balance over all must not.
    scores = torch.eye(4).expand(6, 4, 4) + random(6, 4, 4, dtype=torch.float32) / 100
    by_position = assign_patches(scores, "sinkhorn", 0.05)
    for position in range(4):
        expected = sinkhorn(scores[:, position], 0.05, 3)
        torch.testing.assert_close(by_position[:, position], expected)
    assert by_position.diagonal(dim1=1, dim2=2).mean() < 0.4
    assert assign(scores, "sinkhorn", 0.05).diagonal(dim1=1, dim2=2).mean() > 0.9
    center = random(4, dtype=torch.float32)
    torch.testing.assert_close(
        assign_patches(scores, "centring", 0.1, center), assign(scores, "centring", 0.1, center)
    )


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"method": "centering"}, "method"),
        ({"method": "centring"}, "center"),
        ({"method": "sinkhorn", "center": torch.zeros(4)}, "center"),
        ({"method": "centring", "center": torch.zeros(3)}, "center"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"method": "sinkhorn", "iterations": 0}, "iterations"),
        ({"method": "sinkhorn", "scores": torch.zeros(0, 4)}, "scores"),
    ],
)
def test_assign_refuses(arguments, name):
    given = {"scores": torch.zeros(2, 4), "method": "none", "temperature": 0.1} | arguments
    with pytest.raises(InvalidInput, match=name):
        assign(**given)


def test_update_center_is_the_weighted_mean_of_all_rows():
    center, teacher = random(5), random(2, 3, 4, 5, seed=1)
    expected = 0.9 * center + 0.1 * teacher.reshape(-1, 5).mean(dim=0)
    before = center.clone()
    torch.testing.assert_close(update_center(center, teacher, 0.9), expected)
    assert center.equal(before)
    assert update_center(center.float(), teacher.half(), 0.9).dtype == torch.float32
    for momentum in (-0.1, 1.1, math.nan):
        with pytest.raises(InvalidInput, match="momentum"):
            update_center(center, teacher, momentum)
    with pytest.raises(InvalidInput, match="teacher"):
        update_center(center, random(2, 4), 0.9)


def test_me_max_range_and_gradient():
    p = torch.softmax(random(6, 5), dim=1).requires_grad_(True)
    assert torch.autograd.gradcheck(me_max, (p,))
    assert 0 <= me_max(p) <= math.log(5)
    N, K = 4, 64
    one_hot = torch.eye(K)[:N]
    # N rows on a prototype each cannot do better than ln(K / N).
    assert me_max(one_hot).item() == pytest.approx(math.log(K / N), rel=1e-6)


def test_me_max_at_exact_zeros_has_a_finite_gradient_through_softmax():
    logits = (torch.eye(4) * 1e4).repeat(2, 1)[:5].requires_grad_(True)
    loss = me_max(torch.softmax(logits[:2], dim=1))
    loss.backward()
    assert logits.grad.isfinite().all()


def plain_koleo(features):
    x = features / features.norm(dim=1, keepdim=True)
    similarity = (x @ x.T).fill_diagonal_(-2)
    neighbour = x[similarity.argmax(dim=1)]
    return -((x - neighbour + 1e-8).norm(dim=1) + 1e-8).log().mean()


def test_koleo_equals_the_plain_form(monkeypatch):
    features = random(9, 4).requires_grad_(True)
    expected = plain_koleo(features.detach())
    monkeypatch.setattr("fewsight.objectives.blocks.CPU_ELEMENTS", 20)
    torch.testing.assert_close(koleo(features), expected)
    assert torch.autograd.gradcheck(koleo, (features,))
    torch.testing.assert_close(koleo(features * 1e3), expected)


def test_koleo_of_one_row_is_zero_and_keeps_the_graph():
    features = random(1, 4).requires_grad_(True)
    loss = koleo(features)
    loss.backward()
    assert loss.item() == 0
    assert features.grad.equal(torch.zeros_like(features))


def test_distinct_rows_keep_the_first_of_each_group(monkeypatch):
    monkeypatch.setattr("fewsight.objectives.blocks.CPU_ELEMENTS", 20)
    features = random(6, 8, dtype=torch.float32)
    features[3] = 5 * features[1]
    features[5] = features[1] + 1e-6
    features[4] = features[0] + 1e-2
    kept = assignments.distinct_rows(features)
    assert kept.tolist() == [0, 1, 2, 4]
    features.requires_grad_(True)
    koleo(features[kept]).backward()
    assert features.grad.abs().max() < 1e4
    assert assignments.distinct_rows(features[:0]).tolist() == []


def test_koleo_falls_when_near_features_part():
    near = torch.tensor([[1.0, 0.0], [1.0, 0.01], [-1.0, 0.0]])
    far = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert koleo(near) > koleo(far)


def test_koleo_under_autocast_is_float32():
    features = random(32, 16, dtype=torch.float32)
    expected = koleo(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert koleo(features) == expected
