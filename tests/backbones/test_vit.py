"""timm vision transformers as backbones: tokens equal timm's own, attention equals the written-out form."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer

from fewsight.backbones.backbone import TokenMask
from fewsight.backbones.features import Request
from fewsight.backbones.vit import BeitBackbone, PositionRule, RotaryBackbone, VisionTransformerBackbone
from fewsight.errors import InvalidInput

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
EVERYTHING = Request(blocks="all", attention=True, keys=True, class_query=True)

KINDS = {
    "plain": {},
    "registers": {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.1},
    "registers_with_positions": {"reg_tokens": 2},
    "qk_norm": {"qk_norm": True},
    "pre_norm": {"pre_norm": True},
    "no_class_token": {"class_token": False, "global_pool": "map"},
    "averaged": {"global_pool": "avg"},
}


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter random, so that no token, bias or norm is neutral."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def network(kind: str = "plain", **settings) -> VisionTransformer:
    return randomised(VisionTransformer(**{**TINY, **KINDS[kind], **settings}))


def images(height: int = 32, width: int = 32, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(7))


def backbone(kind: str = "plain", **settings) -> VisionTransformerBackbone:
    return VisionTransformerBackbone(network(kind, **settings), name=kind).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_equal_those_of_timm(kind):
    model = network(kind)
    with torch.no_grad():
        tokens = model.forward_features(images())
        if kind == "averaged":
            tokens = model.fc_norm(tokens)
        outputs = model.forward_intermediates(
            images(),
            norm=kind != "averaged",
            output_fmt="NLC",
            return_prefix_tokens=True,
            intermediates_only=True,
        )
        given = VisionTransformerBackbone(model, name=kind).features(images(), Request(blocks=(0, -1)))
    prefix = model.num_prefix_tokens
    torch.testing.assert_close(given.patches.flatten(1, 2), tokens[:, prefix:])
    if kind == "no_class_token":
        assert given.cls is None
        assert given.blocks.cls is None
        first, last = outputs[0], outputs[-1]
    else:
        torch.testing.assert_close(given.cls, tokens[:, 0])
        (first, first_prefix), (last, _) = outputs[0], outputs[-1]
        if kind != "averaged":
            torch.testing.assert_close(given.blocks.cls[:, 0], first_prefix[:, 0])
    if kind != "averaged":
        torch.testing.assert_close(given.blocks.patches[:, 0].flatten(1, 2), first)
        torch.testing.assert_close(given.blocks.patches[:, 1].flatten(1, 2), last)


def test_raw_block_outputs_are_before_the_norm():
    model = backbone()
    with torch.no_grad():
        raw = model.features(images(), Request(blocks=(-1,), normed=False)).blocks
        normed = model.features(images()).patches
    torch.testing.assert_close(model.model.norm(raw.patches[:, 0]), normed)
    assert not torch.allclose(raw.patches[:, 0], normed)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "no_class_token"])
def test_attention_equals_the_unfused_form(kind):
    model = network(kind)
    attention = model.blocks[-1].attn
    seen = {}
    handle = attention.attn_drop.register_forward_hook(lambda _m, _i, weights: seen.update(weights=weights))
    attention.fused_attn = False  # timm then writes the matrix out
    model.forward_features(images())
    handle.remove()
    attention.fused_attn = True
    given = VisionTransformerBackbone(model, name=kind).features(images(), EVERYTHING)
    expected = seen["weights"][:, :, 0, model.num_prefix_tokens :]
    torch.testing.assert_close(given.attention.flatten(2), expected, rtol=1e-5, atol=1e-7)
    # keys and class query make the same ratios of attention
    logits = torch.einsum("bnd,bnhwd->bnhw", given.class_query, given.keys).flatten(2) * 8**-0.5
    torch.testing.assert_close(
        logits.softmax(-1), expected / expected.sum(-1, keepdim=True), rtol=1e-4, atol=1e-6
    )
    assert given.keys.shape == (2, 3, 4, 4, 8)


def test_without_class_token_there_are_keys_but_no_attention():
    model = backbone("no_class_token")
    assert model.features(images(), Request(keys=True)).keys.shape == (2, 3, 4, 4, 8)
    assert model.pooling == "patches"
    for request in (Request(attention=True), Request(class_query=True)):
        with pytest.raises(InvalidInput, match="no class token"):
            model.features(images(), request)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 64), (64, 16), (16, 64)])
def test_other_sizes_equal_timm_by_its_own_rule(height, width):
    settings = {"dynamic_img_size": True}
    model = network(**settings)
    with torch.no_grad():
        tokens = model.forward_features(images(height, width))
        given = VisionTransformerBackbone(model, name="t").features(images(height, width))
    assert given.patches.shape == (2, height // 8, width // 8, 24)
    torch.testing.assert_close(given.patches.flatten(1, 2), tokens[:, 1:], rtol=1e-4, atol=1e-5)


def test_the_rule_of_the_authors_changes_other_sizes_only():
    model = network()
    ours, dino = (
        VisionTransformerBackbone(model, name="t", positions=rule).eval()
        for rule in (PositionRule(), PositionRule(0.1, antialias=False))
    )
    assert torch.equal(ours.features(images()).cls, dino.features(images()).cls)
    assert not torch.allclose(ours.features(images(64, 32)).cls, dino.features(images(64, 32)).cls)


def test_a_table_that_is_not_square():
    model = backbone(img_size=(16, 32))
    assert model.features(images(32, 32)).patches.shape == (2, 4, 4, 24)


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(InvalidInput, match="30 x 32 pixels"):
        backbone().features(images(30, 32))
    with pytest.raises(InvalidInput, match="images has shape"):
        backbone().features(images()[:, :1])


def test_replaced_patches_leave_no_trace_of_their_pixels():
    model = backbone()
    hidden = torch.zeros(2, 4, 4, dtype=torch.bool)
    hidden[0, 1, 2] = hidden[1, 3] = True
    with pytest.raises(InvalidInput, match="add_mask_token"):
        model.features(images(), mask=TokenMask(hidden))
    model.add_mask_token(torch.arange(24.0))
    changed = images()
    changed[0, :, 8:16, 16:24] += 5
    changed[1, :, 24:] = 0
    with torch.no_grad():
        one, two = (model.features(x, mask=TokenMask(hidden)) for x in (images(), changed))
        assert not torch.allclose(model.features(images()).cls, one.cls)
    assert torch.equal(one.patches, two.patches)
    assert one.patches.shape == (2, 4, 4, 24)


def test_mask_token_stands_before_the_position():
    model = backbone()
    token = torch.randn(24)
    model.add_mask_token(token)
    everything = torch.ones(2, 4, 4, dtype=torch.bool)
    table = model.model.pos_embed
    tokens = torch.cat([model.model.cls_token, token.expand(1, 16, -1)], 1) + table
    expected = model.model.norm(model.model.blocks(tokens))
    given = model.features(images(), mask=TokenMask(everything))
    torch.testing.assert_close(given.patches[:1].flatten(1, 2), expected[:, 1:])


@pytest.mark.parametrize("kind", ["plain", "registers", "no_class_token"])
def test_dropping_is_a_forward_of_the_rest(kind):
    model = backbone(kind)
    shown = [3, 5, 6, 12]
    hidden = torch.ones(16, dtype=torch.bool)
    hidden[shown] = False
    mask = TokenMask(hidden.view(1, 4, 4).expand(2, -1, -1), "drop")
    request = Request(blocks=(-1,), keys=True, attention=kind != "no_class_token")
    with torch.no_grad():
        given = model.features(images(), request, mask)
        net = model.model
        patches = net.patch_embed(images())
        tokens = net.norm_pre(net._pos_embed(patches))
        P = net.num_prefix_tokens
        expected = net.norm(net.blocks(torch.cat([tokens[:, :P], tokens[:, P:][:, shown]], 1)))
    torch.testing.assert_close(given.patches[:, 0], expected[:, P:])
    assert given.patches.shape == (2, 1, 4, 24)
    assert given.blocks.patches.shape == (2, 1, 1, 4, 24)
    assert given.keys.shape == (2, 3, 1, 4, 8)
    if request.attention:
        assert given.attention.shape == (2, 3, 1, 4)


def test_dropping_needs_one_count_and_a_rest():
    model = backbone()
    uneven = torch.zeros(2, 4, 4, dtype=torch.bool)
    uneven[0, 0, 0] = True
    for hidden, words in ((uneven, "the same number"), (torch.ones_like(uneven), "hides every patch")):
        with pytest.raises(InvalidInput, match=words):
            model.features(images(), mask=TokenMask(hidden, "drop"))
    with pytest.raises(InvalidInput, match="hidden has shape"):
        model.features(images(), mask=TokenMask(uneven[:, :2]))


def test_gradients_reach_every_parameter_also_with_checkpointing():
    model = backbone()
    model.add_mask_token()
    hidden = torch.zeros(2, 4, 4, dtype=torch.bool)
    hidden[:, 0] = True
    gradients = []
    for checkpointing in (False, True):
        model.model.set_grad_checkpointing(checkpointing)
        model.train()
        model.zero_grad()
        features = model.features(images(), EVERYTHING, TokenMask(hidden))
        (features.cls.square().sum() + features.attention.square().sum()).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        assert all(g.isfinite().all() for g in gradients[-1].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


def test_float64_and_float16_are_kept():
    for dtype in (torch.float64, torch.bfloat16):
        model = backbone().to(dtype)
        given = model.features(images(64, 32).to(dtype), Request(keys=True, attention=True))
        assert given.cls.dtype == given.keys.dtype == dtype
        assert given.attention.dtype == torch.float32  # a softmax is never less


def test_adaptors_in_the_fused_matrix_are_seen():
    class Adapted(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    model = backbone()
    before = model.features(images(), Request(keys=True)).keys
    attention = model.model.blocks[-1].attn
    adapted = Adapted(24, 72)
    adapted.load_state_dict(attention.qkv.state_dict())
    attention.qkv = adapted
    torch.testing.assert_close(model.features(images(), Request(keys=True)).keys, 2 * before)


def test_unknown_blocks_give_tokens_but_no_keys():
    model = backbone(block_fn=ParallelScalingBlock)
    assert model.features(images(), Request(blocks="all")).blocks.patches.shape == (2, 3, 4, 4, 24)
    with pytest.raises(InvalidInput, match="ParallelScalingBlock"):
        model.features(images(), Request(keys=True))


def test_a_block_that_does_not_exist():
    with pytest.raises(InvalidInput, match="block 3"):
        backbone().features(images(), Request(blocks=(3,)))


def test_hybrids_cut_patches_from_maps():
    model = randomised(timm.create_model("vit_tiny_r_s16_p8_224", num_classes=0, img_size=64, depth=1))
    ours = VisionTransformerBackbone(model, name="hybrid").eval()
    with torch.no_grad():
        tokens = model.forward_features(images(64, 64))
        given = ours.features(images(64, 64), Request(keys=True))
    torch.testing.assert_close(given.patches.flatten(1, 2), tokens[:, 1:])
    assert given.patches.shape == (2, 2, 2, 192)


@pytest.mark.parametrize(
    "bias", [{"use_shared_rel_pos_bias": True}, {"use_rel_pos_bias": True}, {"use_rel_pos_bias": False}]
)
def test_beit(bias):
    model = randomised(Beit(**TINY, use_abs_pos_emb=False, init_values=0.1, use_fc_norm=False, **bias))
    attention, seen = model.blocks[-1].attn, {}
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda _m, _i, weights: seen.update(weights=weights))
    with torch.no_grad():
        tokens = model.forward_features(images())
        attention.fused_attn = True
        ours = BeitBackbone(model, name="beit", pooling="patches").eval()
        given = ours.features(images(), EVERYTHING)
    torch.testing.assert_close(given.patches.flatten(1, 2), tokens[:, 1:], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(given.attention.flatten(2), seen["weights"][:, :, 0, 1:], rtol=1e-5, atol=1e-7)
    with pytest.raises(InvalidInput, match="made for 32 x 32"):
        ours.features(images(32, 64))
    with pytest.raises(InvalidInput, match="cannot drop"):
        ours.features(images(), mask=TokenMask(torch.zeros(2, 4, 4, dtype=torch.bool), "drop"))


@pytest.mark.parametrize(
    "kind",
    [
        {"use_rot_pos_emb": True, "rope_type": "dinov3", "use_abs_pos_emb": False, "num_reg_tokens": 2},
        {"use_rot_pos_emb": True, "qkv_fused": False, "dynamic_img_size": True},
    ],
)
def test_rotary(kind):
    kind = {"dynamic_img_size": True, **kind}
    model = randomised(Eva(**{**TINY, "embed_dim": 48, "global_pool": "token"}, **kind))
    attention, seen = model.blocks[-1].attn, {}
    handle = attention.attn_drop.register_forward_hook(lambda _m, _i, weights: seen.update(weights=weights))
    attention.fused_attn = False
    with torch.no_grad():
        tokens = model.forward_features(images(32, 64))
        attention.fused_attn = True
        handle.remove()
        ours = RotaryBackbone(model, name="eva").eval()
        given = ours.features(images(32, 64), EVERYTHING)
    P = model.num_prefix_tokens
    torch.testing.assert_close(given.patches.flatten(1, 2), tokens[:, P:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(given.attention.flatten(2), seen["weights"][:, :, 0, P:], rtol=1e-4, atol=1e-6)
    hidden = torch.zeros(2, 4, 4, dtype=torch.bool)
    hidden[0, 0, 0] = hidden[1, 2, 3] = True
    assert ours.features(images(), Request(keys=True), TokenMask(hidden, "drop")).patches.shape == (
        2,
        1,
        15,
        48,
    )
