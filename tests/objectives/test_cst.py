"""CST's losses against torch's cross entropy, with gradients and extremes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fewsight.backbones.bundled import BundledBackbone
from fewsight.backbones.features import Features
from fewsight.errors import InvalidInput
from fewsight.heads.correlation_head import CorrelationHead
from fewsight.objectives.cst import CST, cst_loss, enhancer_loss
from fewsight.objectives.objective import Batch


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


@pytest.fixture
def objective() -> CST:
    torch.manual_seed(0)
    backbone = BundledBackbone()
    head = CorrelationHead(backbone.num_heads, backbone.depth, widths=(16, 16), pools=(2, 2))
    return CST(backbone, head).train()


def pairs(masks: torch.Tensor | None) -> Batch:
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[True], [True], [True], [False]])
    return Batch(images=(images,), labels=labels, masks=masks, roles=torch.tensor([0, 0, 1, 1]))


def drawn_masks() -> torch.Tensor:
    masks = torch.zeros(4, 64, 64, dtype=torch.int64)
    masks[:3, 10:40, 20:50] = 1
    return masks


def test_only_the_head_is_trained(objective: CST) -> None:
    terms = objective.backward(pairs(drawn_masks()))
    assert set(terms.values) == {"class", "mask"}
    torch.testing.assert_close(terms.total, 0.1 * terms.values["class"] + terms.values["mask"])
    assert all(p.grad is None for p in objective.encoder.parameters())
    assert all(p.grad is not None for p in objective.head.parameters())
    assert not objective.encoder.training
    assert 0 <= objective.watched()["exact_ratio"] <= 1


def test_each_image_is_supervised_by_what_it_has(objective: CST) -> None:
    """An image that is void throughout trains like one without a mask; masks of the others still count."""
    weak = objective(pairs(None)).values["mask"]
    nothing = objective(pairs(torch.full((4, 64, 64), 255))).values["mask"]
    # Targets are resampled to 64 x 64 pixels in one case and stay at 4 x 4 patches in the other.
    torch.testing.assert_close(weak, nothing, rtol=0.05, atol=0.05)
    strong, mixed = drawn_masks(), drawn_masks()
    mixed[2] = 255
    values = [objective(pairs(m)).values["mask"] for m in (strong, mixed)]
    assert values[0] != values[1]
    void = drawn_masks()
    void[3, :5] = 255  # void pixels count as background
    torch.testing.assert_close(objective(pairs(void)).values["mask"], values[0])


def test_stored_features_give_the_loss_of_images(objective: CST) -> None:
    batch = pairs(drawn_masks())
    features = objective.encoder.features(batch.images[0], objective.request)
    assert isinstance(features, Features)
    stored = Batch(features=features, labels=batch.labels, masks=batch.masks, roles=batch.roles)
    # Batches of two against one of four: float32 rounding.
    torch.testing.assert_close(objective(stored).total, objective(batch).total, rtol=1e-4, atol=1e-4)


def test_it_learns_a_pair(objective: CST) -> None:
    batch = pairs(drawn_masks())
    features = objective.encoder.features(batch.images[0], objective.request).map(torch.Tensor.detach)
    stored = Batch(features=features, labels=batch.labels, masks=batch.masks, roles=batch.roles)
    optimiser = torch.optim.Adam(objective.head.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        losses.append(float(objective.backward(stored).total))
        optimiser.step()
    # Noise through random weights: presence and masks have to be learnt by heart.
    assert losses[-1] < 0.6 * losses[0]


def test_batches_without_pairs(objective: CST) -> None:
    batch = pairs(None)
    with pytest.raises(InvalidInput, match="labels"):
        objective(Batch(images=batch.images))
    with pytest.raises(InvalidInput, match="roles"):
        objective(Batch(images=batch.images, labels=batch.labels, roles=torch.tensor([0, 0, 0, 1])))
