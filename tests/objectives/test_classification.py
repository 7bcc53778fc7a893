"""Cross-entropy through a linear head: formulas, the probe as a start, frozen backbones, the joined loss, errors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fewsight.backbones.conv4 import Conv4
from fewsight.errors import InvalidInput
from fewsight.heads.head import membership_from_labels
from fewsight.heads.logistic import Logistic
from fewsight.objectives.classification import Classification
from fewsight.objectives.label_contrastive import LabelContrastiveSettings, label_contrastive_loss
from fewsight.objectives.objective import Batch

LABELS = torch.tensor([0, 0, 1, 2, 2, 1])


def batch() -> Batch:
    pixels = torch.rand(2, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return Batch(images=tuple(pixels), labels=LABELS)


def objective(**settings: object) -> Classification:
    torch.manual_seed(0)
    return Classification(Conv4(width=8), 3, **settings).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [None, 4.0])
def test_loss_is_the_mean_over_views_and_photos(scale: float | None) -> None:
    made, given = objective(scale=scale), batch()
    losses = []
    for view in given.images:
        vectors = made.encoder(view)
        vectors = vectors if scale is None else scale * F.normalize(vectors, dim=1)
        losses.append(F.cross_entropy(made.head(vectors), LABELS))
    torch.testing.assert_close(made(given).total, torch.stack(losses).mean())


def test_a_head_that_starts_as_the_probe_answers_as_the_probe() -> None:
    made, given = objective(scale=3.0), batch()
    vectors = made.encoder(given.images[0]).detach()
    head = Logistic()
    fitted = head.prepare(vectors, membership_from_labels(LABELS))
    made.start_head(fitted["weights"], fitted["intercept"])
    torch.testing.assert_close(made.logits(vectors), head.compare(vectors, fitted), rtol=1e-4, atol=1e-5)


def test_a_frozen_backbone_stays_in_evaluation_mode_and_gets_no_gradient() -> None:
    made = objective(frozen=True).train()
    assert not made.encoder.training
    before = {name: value.clone() for name, value in made.encoder.state_dict().items()}
    made.backward(batch())
    assert all(parameter.grad is None for parameter in made.encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in made.encoder.state_dict().items())
    assert made.head.weight.grad is not None


def test_joined_terms_are_divided_by_their_value_for_equal_features() -> None:
    settings = LabelContrastiveSettings(projection=5)
    made, given = objective(contrastive=settings, share=0.25), batch()
    assert made.projector is not None
    views = torch.stack([made.projector(made.encoder(view)) for view in given.images], 1)
    contrast = label_contrastive_loss(views, LABELS, temperature=0.1, normalize=True)
    terms = made(given)
    expected = 0.75 * terms.values["cross_entropy"] / math.log(3) + 0.25 * contrast / math.log(11)
    torch.testing.assert_close(terms.total, expected)
    made.backward(given)
    assert all(parameter.grad is not None for parameter in made.projector.parameters())
    assert 0 <= float(made.watched()["accuracy"]) <= 1


def test_wrong_settings_and_batches_are_named() -> None:
    with pytest.raises(InvalidInput, match="classes is 1"):
        Classification(Conv4(width=8), 1)
    with pytest.raises(InvalidInput, match="share"):
        objective(share=1.5)
    with pytest.raises(InvalidInput, match="needs labels"):
        objective()(Batch(images=batch().images))
    with pytest.raises(InvalidInput, match="weights"):
        objective().start_head(torch.zeros(2, 8), torch.zeros(3))
    with pytest.raises(InvalidInput, match="scale is None"):
        objective(scale=None).start_head(torch.zeros(3, 8), torch.zeros(3))
