"""Episodes as an objective: the loss is that of the formula, gradients reach backbone and head, frozen means frozen."""

from __future__ import annotations

import pytest
import torch

from fewsight.backbones.conv4 import Conv4
from fewsight.backbones.features import Features
from fewsight.errors import InvalidInput
from fewsight.heads.crosstransformer import CrossTransformer
from fewsight.heads.prototypes import Prototypes, prototype_logits
from fewsight.objectives.episodic import Episodic, episode_loss
from fewsight.objectives.objective import Batch


def episode() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        images=(torch.rand(11, 3, 32, 32, generator=generator),),
        labels=torch.tensor([7, 7, 3, 3, 5, 7, 3, 5, 5, 3, 7]),
        roles=torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]),
    )


def prototypes() -> Prototypes:
    return Prototypes(metric="euclidean", normalize=False, centring=0, pooling="patches")


def test_loss_is_that_of_prototypical_networks() -> None:
    batch, objective = episode(), Episodic(Conv4(width=8), prototypes()).eval()
    assert batch.labels is not None
    vectors = objective.encoder.features(batch.images[0]).patches.flatten(1, 2).mean(1)
    logits = prototype_logits(vectors[5:], vectors[:5], batch.labels[:5])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([2, 0, 1, 1, 0, 2]))
    torch.testing.assert_close(objective(batch).total, expected, rtol=1e-5, atol=1e-6)
    right = (logits.argmax(1) == torch.tensor([2, 0, 1, 1, 0, 2])).float().mean()
    assert objective.watched()["accuracy"] == right


def test_gradients_reach_backbone_and_head() -> None:
    objective = Episodic(Conv4(width=8), CrossTransformer(8, key_dim=4, value_dim=4))
    objective.backward(episode())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())
    assert any(p.grad.abs().max() > 0 for p in objective.head.parameters())  # type: ignore[union-attr]


def test_a_frozen_backbone_stays_as_it_is() -> None:
    objective = Episodic(Conv4(width=8), CrossTransformer(8, key_dim=4, value_dim=4), frozen=True).train()
    assert not objective.encoder.training
    before = {name: value.clone() for name, value in objective.encoder.state_dict().items()}
    objective.backward(episode())
    assert all(p.grad is None for p in objective.encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in objective.encoder.state_dict().items())


def test_stored_features_and_temperature() -> None:
    batch = episode()
    features = Features(cls=torch.randn(11, 6, generator=torch.Generator().manual_seed(1)))
    stored = Batch(features=features, labels=batch.labels, roles=batch.roles)
    head = Prototypes(metric="euclidean", normalize=False, centring=0)
    plain = Episodic(Conv4(width=8), head)(stored).total
    flat = Episodic(Conv4(width=8), head, temperature=1e6)(stored).total
    assert float(plain) != pytest.approx(float(flat))
    assert float(flat) == pytest.approx(torch.log(torch.tensor(3.0)).item(), abs=1e-4)


def test_loss_is_taken_in_float32() -> None:
    scores = torch.tensor([[1000.0, -1000.0]], dtype=torch.bfloat16)
    assert episode_loss(scores, torch.tensor([1])).dtype == torch.float32
    assert float(episode_loss(scores, torch.tensor([1]))) == pytest.approx(2000, rel=0.01)


def test_errors_name_the_argument() -> None:
    with pytest.raises(InvalidInput, match="temperature is 0"):
        Episodic(Conv4(width=8), prototypes(), temperature=0)
    with pytest.raises(InvalidInput, match="labels and roles"):
        Episodic(Conv4(width=8), prototypes())(Batch(images=episode().images))
