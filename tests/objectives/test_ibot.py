"""iBOT: the plain patch loop, empty masks, other means against collapse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fewsight.errors import InvalidInput
from fewsight.objectives.assignments import assign_patches
from fewsight.objectives.dino import dino_loss
from fewsight.objectives.ibot import ibot_loss, masked_patch_loss


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_patch_loss(student, targets, mask, temperature):
    cross_entropy = -(targets * F.log_softmax(student / temperature, dim=-1)).sum(dim=-1)
    return ((cross_entropy * mask).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)).mean()


@pytest.mark.parametrize("method", ["none", "centring", "sinkhorn"])
def test_patch_loss_equals_the_plain_form(method):
    student, teacher, mask = random(2, 3, 6, 5), random(2, 3, 6, 5, seed=1), random(2, 3, 6, seed=2) > 0.3
    center = random(5, seed=3) if method == "centring" else None
    loss = masked_patch_loss(student, teacher, mask, center, 0.1, 0.07, method=method)
    expected = plain_patch_loss(student, assign_patches(teacher, method, 0.07, center), mask, 0.1)
    torch.testing.assert_close(loss, expected)


def test_class_loss_is_that_of_dino():
    student, teacher, center = random(4, 2, 6), random(2, 2, 6, seed=1), random(6, seed=2)
    patches, mask = random(2, 2, 3, 5), torch.ones(2, 2, 3, dtype=torch.bool)
    losses = ibot_loss(student, teacher, patches, patches, mask, center, torch.zeros(5), 0.1, 0.04, 0.07)
    torch.testing.assert_close(losses.cls_loss, dino_loss(student, teacher, center, 0.1, 0.04))


def test_unmasked_patches_do_not_matter_and_empty_masks_give_zero():
    student, teacher = random(1, 2, 4, 5).requires_grad_(True), random(1, 2, 4, 5, seed=1)
    mask = torch.tensor([[[1, 0, 0, 1], [0, 0, 0, 0]]])
    loss = masked_patch_loss(student, teacher, mask, torch.zeros(5), 0.1, 0.07)
    loss.backward()
    assert (student.grad[~mask.bool()] == 0).all()
    assert (student.grad[mask.bool()] != 0).any()
    nothing = masked_patch_loss(student, teacher, torch.zeros_like(mask), torch.zeros(5), 0.1, 0.07)
    assert nothing.item() == 0
    nothing.backward()


def test_refuses_a_mask_of_another_shape():
    logits, patches = torch.zeros(2, 3, 4), torch.zeros(2, 3, 6, 5)
    with pytest.raises(InvalidInput, match="mask"):
        ibot_loss(logits, logits, patches, patches, torch.ones(2, 3, 7), None, None, 0.1, 0.1, 0.1)
