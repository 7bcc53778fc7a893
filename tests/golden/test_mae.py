"""MAE's loss and its whole pretraining forward pass against the authors' code."""

from __future__ import annotations

import pytest
from golden_cases import cases

from fewsight.objectives.mae import MaskedAutoencoder, mae_loss


@pytest.mark.parametrize("case", cases("mae_loss"), ids=str)
def test_mae_loss(case):
    pred = case.tensor("pred", grad=True)
    loss = mae_loss(case.tensor("images"), pred, case.tensor("mask"), **case.params)
    loss.backward()
    case.check(loss=loss, grad_pred=pred.grad)


@pytest.mark.parametrize("case", cases("mae_forward"), ids=str)
def test_mae_forward(case):
    params = case.params
    patch_size = params.pop("patch_size")
    network = MaskedAutoencoder.from_state_dict(
        case.state_dict(), params.pop("num_heads"), params.pop("decoder_num_heads")
    )
    assert network.sizes.patch_size == patch_size
    case.check(**network(case.tensor("images"), case.tensor("noise"), **params)._asdict())
