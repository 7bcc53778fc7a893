"""Label-aware contrastive loss and its gradient against an independent float64 oracle."""

import pytest
import torch
from golden_cases import cases

from fewsight.objectives.label_contrastive import label_contrastive_loss


def run(case, dtype):
    features = case.tensor("features").to(dtype).requires_grad_()
    labels = case.tensor("labels") if case.has("labels") else None
    loss = label_contrastive_loss(features, labels, **case.params)
    loss.backward()
    return {"loss": loss, "grad_features": features.grad}


@pytest.mark.parametrize("case", cases("label_contrastive"), ids=str)
def test_golden(case):
    case.check(**run(case, torch.float64))


@pytest.mark.parametrize("case", cases("label_contrastive"), ids=str)
def test_float32_within_one_percent(case):
    for name, value in run(case, torch.float32).items():
        expected = torch.as_tensor(case.outputs[name])
        assert value.dtype == torch.float32
        assert value.isfinite().all()
        assert (value - expected).abs().max() <= 0.01 * expected.abs().max() + 1e-6
