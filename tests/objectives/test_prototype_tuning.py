"""Prototype fine-tuning: the loss of the formula, gradients through both sides, any labels, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fewsight.backbones.conv4 import Conv4
from fewsight.errors import InvalidInput
from fewsight.objectives.objective import Batch
from fewsight.objectives.prototype_tuning import PrototypeTuning, prototype_tuning_loss

LABELS = torch.tensor([9, 4, 9, 4, 7])


def vectors(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_loss_is_that_of_cosines_to_class_means() -> None:
    supports, queries = vectors(5, 6), vectors(2, 5, 6)
    losses = []
    for view in queries:
        for query, label in zip(view, LABELS, strict=True):
            means = torch.stack([supports[k == LABELS].mean(0) for k in (4, 7, 9)])
            cosines = F.cosine_similarity(query[None], means)
            losses.append(-torch.log_softmax(10 * cosines, 0)[[4, 7, 9].index(int(label))])
    loss, logits = prototype_tuning_loss(supports, queries, LABELS)
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    assert logits.shape == (10, 3)


def test_gradients_flow_through_prototypes_and_queries() -> None:
    supports, queries = vectors(5, 6).requires_grad_(), vectors(1, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: prototype_tuning_loss(*x, LABELS)[0], (supports, queries))


def test_the_first_view_is_the_clean_one() -> None:
    torch.manual_seed(0)
    objective = PrototypeTuning(Conv4(width=8)).eval()
    images = tuple(torch.rand(3, 5, 3, 16, 16))
    encoded = [objective.encoder(view) for view in images]
    expected = prototype_tuning_loss(encoded[0], torch.stack(encoded[1:]), LABELS)[0]
    torch.testing.assert_close(objective(Batch(images=images, labels=LABELS)).total, expected)
    assert 0 <= float(objective.watched()["accuracy"]) <= 1
    assert objective.backbone() is objective.encoder


def test_wrong_input_is_named() -> None:
    with pytest.raises(InvalidInput, match="scale is 0"):
        PrototypeTuning(Conv4(width=8), scale=0)
    images = torch.rand(5, 3, 16, 16)
    for wrong in (Batch(images=(images,), labels=LABELS), Batch(images=(images, images))):
        with pytest.raises(InvalidInput, match="a clean view and at least one augmented view"):
            PrototypeTuning(Conv4(width=8))(wrong)
