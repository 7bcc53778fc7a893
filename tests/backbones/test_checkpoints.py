"""Layouts: what is told by itself, what is refused, and sizes read from shapes."""

from __future__ import annotations

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from fewsight.backbones.checkpoints import (
    LAYOUTS,
    assembled,
    convert,
    detect_layout,
    load_strictly,
    mask_token,
    network,
    network_arguments,
    position_rule,
    tokens_from,
)
from fewsight.backbones.vit import PositionRule
from fewsight.errors import IncompatibleModel, InvalidInput

SMALL = {"img_size": 12, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return VisionTransformer(**SMALL).state_dict()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def under(prefix: str, state):
    return {prefix + key: value for key, value in state.items()}


WRAPPED = {
    "dino": lambda s: s,
    "dino_full": lambda s: {
        "teacher": under("backbone.", s) | {"head.mlp.0.weight": torch.ones(2, 2)},
        "student": under("module.backbone.", s),
        "epoch": 3,
    },
    "msn": lambda s: {
        "target_encoder": under("module.", s) | {"module.fc.fc1.weight": torch.ones(2)},
        "encoder": under("module.", {k: v + 1 for k, v in s.items()}),
        "prototypes": torch.ones(2, 2),
    },
    "moco_v3": lambda s: {
        "state_dict": under("module.base_encoder.", s)
        | {"module.base_encoder.head.0.weight": torch.ones(2), "module.predictor.0.weight": torch.ones(2)}
    },
    "mae": lambda s: {
        "model": s | {"decoder_pos_embed": torch.ones(1, 10, 8), "mask_token": torch.ones(1, 1, 8)}
    },
    "deit": lambda s: {"model": s | {"head.weight": torch.ones(5, 16), "head.bias": torch.ones(5)}},
}


@pytest.mark.parametrize("layout", WRAPPED)
def test_every_layout_gives_the_same_network(state, images, layout):
    wrapped = WRAPPED[layout](state)
    assert detect_layout(wrapped) == layout
    converted = convert(wrapped, layout)
    assert set(converted) == set(state)
    model = VisionTransformer(**SMALL).eval()
    model.load_state_dict(converted)
    expected = model.forward_features(images)
    tokens = tokens_from(wrapped, layout, images, 4, 2)
    torch.testing.assert_close(tokens.cls, expected[:, 0])
    torch.testing.assert_close(tokens.patches.flatten(1, 2), expected[:, 1:])


def test_ibot_files(state):
    assert detect_layout({"state_dict": state | {"masked_embed": torch.ones(1, 16)}}) == "dino"
    both = {"state_dict": state | {"masked_embed": torch.ones(1, 16)}}
    assert set(convert(both, "dino")) == set(state)
    assert mask_token(both, "dino").tolist() == [1.0] * 16


def test_the_decoders_mask_token_is_not_the_backbones(state):
    assert mask_token(WRAPPED["mae"](state), "mae") is None


def test_training_output_of_dinov2_counts_blocks_globally(state):
    chunked = {
        (key.replace("blocks.1.", "blocks.1.1.").replace("blocks.0.", "blocks.0.0.")): value
        for key, value in state.items()
    }
    full = {"teacher": under("backbone.", chunked) | {"dino_head.mlp.0.weight": torch.ones(2)}}
    assert detect_layout(full) == "dinov2"
    assert set(convert(full, "dinov2")) == set(state)


def test_swiglu_of_the_giant():
    torch.manual_seed(0)
    arguments = {"family": "vit", "img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    arguments |= {
        "mlp_ratio": 6.0,
        "init_values": 1e-5,
        "qkv_bias": True,
        "reg_tokens": 0,
        "no_embed_class": False,
    }
    arguments |= {"class_token": True, "pre_norm": False, "distilled": False, "swiglu": True}
    published = {
        key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): value
        for key, value in network(arguments).state_dict().items()
    }
    assert network_arguments(convert(published, "dinov2"), 2) == arguments


def test_distilled_networks_have_two_prefix_tokens():
    model = VisionTransformerDistilled(**SMALL).eval()
    published = {
        "model": model.state_dict() | {"head.weight": torch.ones(1), "head_dist.bias": torch.ones(1)}
    }
    assert detect_layout(published) == "deit"
    backbone = assembled(convert(published, "deit"), 2, position_rule("deit")).eval()
    image = torch.randn(1, 3, 12, 12)
    expected = model.forward_features(image)
    torch.testing.assert_close(backbone.features(image).patches.flatten(1, 2), expected[:, 2:])


def test_the_class_position_tells_mae_from_dino(state):
    fixed = state | {"pos_embed": torch.cat([torch.zeros(1, 1, 16), state["pos_embed"][:, 1:]], 1)}
    assert detect_layout({"model": fixed}) == "mae"
    assert detect_layout(fixed) == "mae"
    ambiguous = {"pos_embed": torch.zeros(1, 10, 384), "patch_embed.proj.weight": torch.ones(384, 3, 4, 4)}
    with pytest.raises(InvalidInput, match="'mae' and 'moco_v3'"):
        detect_layout(ambiguous)


def test_fine_tuned_files_have_their_norm_behind_the_pooling(state):
    tuned = {
        key.replace("norm.", "fc_norm.") if key.startswith("norm.") else key: v for key, v in state.items()
    }
    assert detect_layout({"model": tuned | {"head.weight": torch.ones(2, 16)}}) == "mae"
    assert set(convert({"model": tuned | {"head.weight": torch.ones(2, 16)}}, "mae")) == set(state)


def test_inputs_are_not_changed(state, images):
    before = {key: value.clone() for key, value in state.items()}
    tokens_from(state, "dino", images.double(), 4, 2)
    assert all(torch.equal(before[key], state[key]) for key in state)
    assert tokens_from(state, "dino", images.double(), 4, 2).cls.dtype == torch.float64


def test_gradients_reach_the_images(state, images):
    images.requires_grad_()
    tokens_from(state, "dino", images, 4, 2).cls.sum().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks.1.norm2.bias": None}, r"lacks blocks\.1\.norm2\.bias"),
        ({"blocks.0.mlp.fc1.weight": None}, r"lacks blocks\.0\.mlp\.fc1\.weight"),
        ({"blocks.0.attn.qkv.bias": None}, r"lacks blocks\.0\.attn\.qkv\.bias"),
        ({"norm.weight": None}, r"lacks norm\.weight"),
        ({"pos_embed": None}, "pos_embed is missing"),
        ({"pos_embed": torch.ones(1, 11, 16)}, "no square grid"),
        ({"norm.weight": torch.ones(17)}, r"norm\.weight has shape \[17\]; expected \[16\]"),
        ({"blocks.1.attn.qkv.weight": torch.ones(48, 15)}, r"blocks\.1\.attn\.qkv\.weight has shape"),
        ({"blocks.7.norm1.weight": torch.ones(16)}, "lacks"),
        ({"surprise": torch.ones(1)}, "also holds surprise"),
        ({"blocks.0.extra": torch.ones(1)}, r"blocks\.0\.extra"),
        ({"cls_token": None}, "no square grid"),
    ],
)
def test_wrong_tensors_are_named(state, images, change, words):
    broken = {key: value for key, value in (state | change).items() if value is not None}
    with pytest.raises(InvalidInput, match=words) as told:
        tokens_from(broken, "dino", images, 4, 2)
    assert isinstance(told.value, IncompatibleModel)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dinoo", 4, 2), "Did you mean dino"),
        (("msn", 4, 2), "not of the layout 'msn'"),
        (("dino", 8, 2), "patch_size is 8"),
        (("dino", 4, 3), "num_heads is 3"),
        (("dino", 4, 0), "num_heads is 0"),
    ],
)
def test_wrong_arguments_are_named(state, images, arguments, words):
    layout, patch_size, num_heads = arguments
    with pytest.raises(InvalidInput, match=words):
        tokens_from(state, layout, images, patch_size, num_heads)


def test_a_mask_without_a_token(state, images):
    with pytest.raises(InvalidInput, match="no mask token"):
        tokens_from(state, "dino", images, 4, 2, mask=torch.ones(2, 3, 3))


def test_other_networks_are_named():
    with pytest.raises(InvalidInput, match="no vision transformer"):
        detect_layout({"conv1.weight": torch.ones(1)})


def test_rules_of_the_authors():
    assert {layout: position_rule(layout) for layout in LAYOUTS} == {
        "dino": PositionRule(0.1, False),
        "dino_full": PositionRule(0.1, False),
        "msn": PositionRule("msn", False),
        "dinov2": PositionRule(0.1, False),
        **dict.fromkeys(("moco_v3", "mae", "simmim", "deit"), PositionRule(0.0, False)),
    }
    assert position_rule("dinov2", registers=True) == PositionRule(0.0, True)


def test_leftovers_are_refused(state):
    with pytest.raises(InvalidInput, match="holds more"):
        load_strictly(VisionTransformer(**SMALL), state | {"more": torch.ones(1)})
