"""Tokens of published checkpoint layouts against the authors' code."""

from __future__ import annotations

import pytest
import torch
from golden_cases import cases

from fewsight.backbones.checkpoints import detect_layout, tokens_from


def images_of(case):
    return case.tensor("images").double()  # the goldens were computed in float64


@pytest.mark.parametrize("case", cases("vit_checkpoints"), ids=str)
def test_vit_checkpoints(case):
    params = case.params
    tokens = tokens_from(case.state_dict(), params.pop("layout"), images_of(case), **params)
    case.check(cls=tokens.cls, patches=tokens.patches)


@pytest.mark.parametrize("case", cases("vit_checkpoints"), ids=str)
def test_the_layout_is_found_and_its_rule_is_the_published_one(case):
    layout = detect_layout(case.state_dict())
    assert layout == case.params["layout"]
    tokens = tokens_from(
        case.state_dict(), layout, images_of(case), case.params["patch_size"], case.params["num_heads"]
    )
    case.check(cls=tokens.cls, patches=tokens.patches)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("case", cases("mae_checkpoints"), ids=str)
def test_mae_checkpoints(case, wrapped):
    state = {"model": case.state_dict()} if wrapped else case.state_dict()
    tokens = tokens_from(state, layout="mae", images=images_of(case), **case.params)
    case.check(cls_token=tokens.cls, patch_tokens=tokens.patches.flatten(1, 2))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("case", cases("simmim_checkpoints"), ids=str)
def test_simmim_checkpoints(case, wrapped):
    state = case.state_dict()
    if wrapped:
        state = {
            "model": {f"encoder.{key}": value for key, value in state.items()}
            | {"decoder.0.bias": torch.ones(3)}
        }
    assert detect_layout(state) == "simmim"
    plain, masked = (
        tokens_from(state, layout="simmim", images=images_of(case), mask=mask, **case.params)
        for mask in (None, case.tensor("mask"))
    )
    case.check(
        cls_token=plain.cls,
        patch_tokens=plain.patches.flatten(1, 2),
        masked_cls_token=masked.cls,
        masked_patch_tokens=masked.patches.flatten(1, 2),
    )
