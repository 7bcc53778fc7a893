"""Fused cross-entropy: the plain double loop, gradients, large logits, half precision, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fewsight.errors import InvalidInput
from fewsight.objectives import cross_entropy
from fewsight.objectives.cross_entropy import mean_cross_entropy, patch_cross_entropy, view_cross_entropy


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def distributions(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.softmax(3 * random(*shape, seed=seed, dtype=dtype), dim=-1)


def plain_view_cross_entropy(student, targets, temperature):
    total, pairs = 0.0, 0
    for g, target in enumerate(targets):
        for v, logits in enumerate(student):
            if v != g:
                total = total - (target * F.log_softmax(logits / temperature, dim=-1)).sum(dim=-1).mean()
                pairs += 1
    return total / pairs


@pytest.mark.parametrize(("V", "G"), [(2, 2), (3, 1), (5, 2), (4, 3), (3, 3)])
def test_views_equal_the_double_loop(monkeypatch, V, G):
    monkeypatch.setattr("fewsight.objectives.blocks.CPU_ELEMENTS", 28)  # blocks of two rows
    student, targets = random(V, 5, 7).requires_grad_(True), distributions(G, 5, 7)
    loss = view_cross_entropy(student, targets, 0.1)
    (gradient,) = torch.autograd.grad(loss, student)
    expected = plain_view_cross_entropy(student, targets, 0.1)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_gradient_by_finite_differences():
    student, targets = random(4, 2, 3).requires_grad_(True), distributions(2, 2, 3)
    assert torch.autograd.gradcheck(lambda x: view_cross_entropy(x, targets, 0.5), (student,))


def test_gradient_is_scaled_by_what_comes_back():
    student, targets = random(2, 3, 4).requires_grad_(True), distributions(2, 3, 4)
    (once,) = torch.autograd.grad(view_cross_entropy(student, targets, 0.1), student)
    (twice,) = torch.autograd.grad(2 * view_cross_entropy(student, targets, 0.1), student)
    torch.testing.assert_close(twice, 2 * once)


def test_targets_get_no_gradient_and_stay():
    student, targets = random(2, 3, 4).requires_grad_(True), distributions(2, 3, 4).requires_grad_(True)
    before = targets.detach().clone()
    view_cross_entropy(student, targets, 0.1).backward()
    assert targets.grad is None
    assert targets.detach().equal(before)


@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_large_logits_in_float32(scale):
    student, targets = (
        scale * random(3, 4, 16, dtype=torch.float32),
        distributions(2, 4, 16, dtype=torch.float32),
    )
    student.requires_grad_(True)
    loss = view_cross_entropy(student, targets, 0.1)
    loss.backward()
    expected = plain_view_cross_entropy(student.detach().double(), targets.double(), 0.1)
    # The value itself is of order scale / temperature; float32 holds seven digits of it.
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits(dtype):
    student = random(3, 4, 16, dtype=torch.float32).to(dtype).requires_grad_(True)
    targets = distributions(2, 4, 16, dtype=torch.float32)
    loss = view_cross_entropy(student, targets, 0.1)
    loss.backward()
    assert loss.dtype == torch.float32
    assert student.grad.dtype == dtype
    torch.testing.assert_close(loss, view_cross_entropy(student.detach().float(), targets, 0.1))


def test_mean_over_any_leading_axes():
    logits, targets = random(2, 3, 5, 4).requires_grad_(True), distributions(2, 3, 5, 4)
    mean = mean_cross_entropy(logits, targets, 0.2)
    expected = -(targets * F.log_softmax(logits / 0.2, dim=-1)).sum(dim=-1).mean()
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(torch.autograd.grad(mean, logits), torch.autograd.grad(expected, logits))


def test_backward_can_be_called_twice_and_gives_its_gradient_away():
    student, targets = random(3, 4, 5).requires_grad_(True), distributions(2, 4, 5)
    loss = view_cross_entropy(student, targets, 0.1)
    (first,) = torch.autograd.grad(loss, student, retain_graph=True)
    kept = first.clone()
    first.zero_()
    (second,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(second, kept)


def test_loss_scaling_comes_before_the_rounding_to_half_precision():
    # Unscaled gradients of a large batch lie below what float16 can hold.
    student = random(2, 512, 64, dtype=torch.float32).half().requires_grad_(True)
    targets = distributions(2, 512, 64, dtype=torch.float32)
    (scaled,) = torch.autograd.grad(65536 * view_cross_entropy(student, targets, 0.1), student)
    full = student.detach().float().requires_grad_(True)
    (expected,) = torch.autograd.grad(65536 * view_cross_entropy(full, targets, 0.1), full)
    # float16 has eleven bits.
    torch.testing.assert_close(scaled.float(), expected, rtol=1e-3, atol=1e-6)


def test_no_gradient_is_made_where_none_is_wanted(monkeypatch):
    made = []
    sweep = cross_entropy._sweep
    monkeypatch.setattr(
        cross_entropy,
        "_sweep",
        lambda *arguments: made.append(arguments[2] is not None) or sweep(*arguments),
    )
    student, targets = random(3, 4, 5), distributions(2, 4, 5)
    assert not view_cross_entropy(student, targets, 0.1).requires_grad
    with torch.no_grad():
        value = view_cross_entropy(student.clone().requires_grad_(True), targets, 0.1)
    torch.testing.assert_close(value, view_cross_entropy(student, targets, 0.1))
    assert made == [False, False, False]


def test_patches_average_images_first():
    mask = torch.tensor([[True, True, False], [False, False, True], [False, False, False]])
    logits, targets = random(3, 4), distributions(3, 4)
    rows = -(targets * F.log_softmax(logits / 0.1, dim=-1)).sum(dim=-1)
    expected = ((rows[0] + rows[1]) / 2 + rows[2] + 0) / 3
    torch.testing.assert_close(patch_cross_entropy(logits, targets, mask, 0.1), expected)


def test_no_masked_patch_gives_zero_with_a_graph():
    logits = torch.zeros(0, 4, requires_grad=True)
    loss = patch_cross_entropy(logits, torch.zeros(0, 4), torch.zeros(2, 3, dtype=torch.bool), 0.1)
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize(
    ("student", "targets", "temperature", "name"),
    [
        ((1, 2, 3), (1, 2, 3), 0.1, "student"),
        ((1, 2, 3), (2, 2, 3), 0.1, "student"),
        ((2, 0, 3), (2, 0, 3), 0.1, "student"),
        ((2, 2, 3), (2, 2, 4), 0.1, "targets"),
        ((2, 2, 3), (2, 2, 3), -1.0, "temperature"),
    ],
)
def test_refuses(student, targets, temperature, name):
    with pytest.raises(InvalidInput, match=name):
        view_cross_entropy(torch.zeros(student), torch.zeros(targets), temperature)


def test_refuses_targets_of_another_shape():
    with pytest.raises(InvalidInput, match="targets"):
        mean_cross_entropy(torch.zeros(2, 3), torch.zeros(3, 3), 0.1)
    with pytest.raises(InvalidInput, match="targets"):
        patch_cross_entropy(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(1, 3, dtype=torch.bool), 0.1)
