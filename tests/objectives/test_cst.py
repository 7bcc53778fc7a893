"""CST's losses against torch's cross entropy, with gradients and extremes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fewsight.errors import InvalidInput
from fewsight.objectives.cst import cst_loss, enhancer_loss


def batch(scale: float = 1.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    class_logits = scale * torch.randn(3, 2, generator=generator, dtype=torch.float64)
    mask_logits = scale * torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    target = torch.rand(3, 9, 8, generator=generator) < 0.3
    return class_logits, mask_logits, torch.tensor([True, False, True]), target


@pytest.mark.parametrize("scale", [1e-4, 1, 1e3])
def test_equals_cross_entropy(scale: float) -> None:
    class_logits, mask_logits, present, target = batch(scale)
    found = cst_loss(class_logits, mask_logits, present, target, size=(9, 8))
    resized = F.interpolate(mask_logits, size=(9, 8), mode="bilinear", align_corners=True)
    torch.testing.assert_close(found.class_loss, F.cross_entropy(class_logits, present.long()))
    torch.testing.assert_close(found.mask_loss, F.cross_entropy(resized, target.long()))
    torch.testing.assert_close(found.loss, 0.1 * found.class_loss + found.mask_loss)


def test_gradient() -> None:
    class_logits, mask_logits, present, target = batch()
    inputs = (class_logits.requires_grad_(), mask_logits.requires_grad_())
    assert torch.autograd.gradcheck(lambda c, m: cst_loss(c, m, present, target, size=(9, 8)).loss, inputs)


def test_half_precision_is_summed_in_float32() -> None:
    class_logits, mask_logits, present, target = batch()
    found = cst_loss(class_logits.half(), mask_logits.half(), present, target, size=(9, 8))
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(
        found.loss.double(), cst_loss(*batch(), size=(9, 8)).loss, rtol=1e-3, atol=1e-3
    )  # rounding of the logits


def test_enhancer_loss_is_binary_cross_entropy() -> None:
    enhanced = torch.rand(
        2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    target = torch.rand(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = -(target * enhanced.log() + (1 - target) * (1 - enhanced).log()).mean()
    torch.testing.assert_close(enhancer_loss(enhanced, target), expected)
    assert torch.autograd.gradcheck(enhancer_loss, (enhanced, target))
    certain = enhancer_loss(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0, 1.0]]]))
    assert certain.isfinite()


def test_errors_name_the_argument() -> None:
    class_logits, mask_logits, present, target = batch()
    for changed, word in (
        ((class_logits[:, :1], mask_logits, present, target), "class_logits"),
        ((class_logits, mask_logits[:2], present, target), "mask_logits"),
        ((class_logits, mask_logits, present[:2], target), "present"),
        ((class_logits, mask_logits, present, target[:, :5]), "target"),
        ((class_logits, mask_logits, present, target * 2.0), "target"),
        ((class_logits, mask_logits, present * 0.5, target), "present"),
    ):
        with pytest.raises(InvalidInput, match=word):
            cst_loss(*changed, size=(9, 8))
    with pytest.raises(InvalidInput, match="class_weight"):
        cst_loss(*batch(), size=(9, 8), class_weight=-1)
    with pytest.raises(InvalidInput, match="enhanced"):
        enhancer_loss(torch.full((1, 2, 2), 1.5), torch.ones(1, 2, 2))
    with pytest.raises(InvalidInput, match="target"):
        enhancer_loss(torch.ones(1, 2, 2), torch.ones(1, 2, 3))
