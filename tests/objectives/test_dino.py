"""DINO: what only this objective promises; its cross-entropy has tests of its own."""

from __future__ import annotations

import math

import pytest
import torch

from fewsight.errors import FewsightError, InvalidInput
from fewsight.objectives.assignments import assign
from fewsight.objectives.cross_entropy import view_cross_entropy
from fewsight.objectives.dino import dino_loss


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_images_are_exchangeable_and_views_are_not():
    student, teacher, center = random(4, 6, 9), random(2, 6, 9, seed=1), random(9, seed=2)
    loss = dino_loss(student, teacher, center, 0.1, 0.04)
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    torch.testing.assert_close(dino_loss(student[:, order], teacher[:, order], center, 0.1, 0.04), loss)
    # Image-major views pair an image with other images.
    swapped = student.transpose(0, 1).reshape(4, 6, 9)
    assert not torch.isclose(dino_loss(swapped, teacher, center, 0.1, 0.04), loss, rtol=1e-3)


def test_pairs_of_one_view_are_left_out():
    teacher = 50 * random(2, 4, 8)
    # A student that copies the teacher view by view would have a loss of almost 0 if v = g counted.
    assert dino_loss(teacher, teacher, torch.zeros(8).double(), 0.1, 0.04) > 1


def test_loss_never_changes_the_centre():
    center = random(5)
    before = center.clone()
    dino_loss(random(2, 3, 5), random(2, 3, 5, seed=1), center, 0.1, 0.04)
    assert center.equal(before)


def test_the_centre_may_move_before_the_backward_pass():
    # 16-bit logits have their gradient made in the backward pass, with the centre of the forward pass.
    student, teacher = random(2, 3, 5).half().requires_grad_(True), random(2, 3, 5, seed=1).float()
    gradients = []
    for shift in (0, 1):
        center = random(5, seed=2).float()
        loss = dino_loss(student, teacher, center, 0.1, 0.04)
        center[0] += shift
        gradients += torch.autograd.grad(loss, student)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


@pytest.mark.parametrize("method", ["none", "sinkhorn"])
def test_other_means_against_collapse(method):
    student, teacher = random(3, 4, 5), random(2, 4, 5, seed=1)
    loss = dino_loss(student, teacher, None, 0.1, 0.05, method=method)
    torch.testing.assert_close(loss, view_cross_entropy(student, assign(teacher, method, 0.05), 0.1))


def test_uniform_collapse_gives_ln_k():
    K = 4096
    loss = dino_loss(torch.ones(4, 2, K), torch.ones(2, 2, K), torch.zeros(K), 0.1, 0.04)
    assert loss.item() == pytest.approx(math.log(K), rel=1e-6)


def test_teacher_gets_no_gradient():
    teacher = random(2, 3, 4).requires_grad_(True)
    student = random(2, 3, 4, seed=1).requires_grad_(True)
    dino_loss(student, teacher, torch.zeros(4).double(), 0.1, 0.04).backward()
    assert teacher.grad is None


def test_refuses_a_centre_of_another_width():
    with pytest.raises(InvalidInput, match="center"):
        dino_loss(random(2, 3, 4), random(2, 3, 4), torch.zeros(5), 0.1, 0.04)
    with pytest.raises(InvalidInput, match="temperature"):
        dino_loss(random(2, 3, 4), random(2, 3, 4), torch.zeros(4), 0.1, 0.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_logits_that_are_given_away_leave_the_same_value_and_gradients(dtype):
    rows, layer = random(12, 7).to(dtype), random(9, 7, seed=3).to(dtype).requires_grad_(True)
    teacher, center = random(2, 3, 9, seed=1).float(), random(9, seed=2).float()
    teacher, center = (t.to(dtype) if dtype == torch.float64 else t for t in (teacher, center))
    found = []
    for overwrite in (False, True):
        logits = torch.nn.functional.linear(rows, layer).unflatten(0, (4, 3))
        loss = dino_loss(logits, teacher, center, 0.1, 0.04, overwrite=overwrite)
        found.append((loss.detach(), *torch.autograd.grad(2 * loss, layer)))
    for own, given in zip(*found, strict=True):
        assert torch.equal(own, given)


def test_given_away_logits_take_no_memory_for_their_gradient():
    leaf = random(4, 3, 9).requires_grad_(True)
    logits = 1 * leaf
    loss = dino_loss(logits, random(2, 3, 9, seed=1), random(9, seed=2), 0.1, 0.04, overwrite=True)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert torch.equal(logits.detach(), gradient)


def test_other_uses_of_given_away_logits_are_refused_and_not_wrong():
    logits = 1 * random(4, 3, 9).requires_grad_(True)
    square = logits.square().sum()  # keeps the logits for its gradient
    loss = dino_loss(logits, random(2, 3, 9, seed=1), random(9, seed=2), 0.1, 0.04, overwrite=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (loss + square).backward()
    leaf = random(4, 3, 9).requires_grad_(True)
    with pytest.raises(InvalidInput, match="over a parameter"):
        dino_loss(leaf, random(2, 3, 9, seed=1), None, 0.1, 0.04, method="none", overwrite=True)
    logits = 1 * random(4, 3, 9).requires_grad_(True)
    loss = dino_loss(logits, random(2, 3, 9, seed=1), random(9, seed=2), 0.1, 0.04, overwrite=True)
    loss.backward(retain_graph=True)
    with pytest.raises(FewsightError, match="asked for twice"):
        loss.backward()


def test_without_gradients_nothing_is_overwritten():
    logits = random(4, 3, 9)
    before = logits.clone()
    dino_loss(logits, random(2, 3, 9, seed=1), random(9, seed=2), 0.1, 0.04, overwrite=True)
    assert logits.equal(before)
