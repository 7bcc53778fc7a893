from __future__ import annotations

import copy

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from fewsight.backbones import precision
from fewsight.backbones.conv4 import Conv4
from fewsight.backbones.encode import encode
from fewsight.backbones.precision import PackedLinear, agreement, agrees, at_precision, evaluating
from fewsight.backbones.vit import VisionTransformerBackbone
from fewsight.data.transform import Transform

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=0)
    return VisionTransformerBackbone(model, name="tiny", transform=Transform(size=(32, 32)))


def test_a_copy_is_made_only_where_it_is_needed(backbone):
    assert at_precision(backbone, torch.float32, CPU) is backbone
    half = at_precision(backbone, torch.float16, CPU)
    assert half is not backbone
    assert at_precision(half, torch.float16, CPU) is half
    assert next(backbone.parameters()).dtype == torch.float32


def test_convolutions_have_their_channels_last():
    network = Conv4(8).eval()
    copied = at_precision(network, torch.float32, CPU)
    assert copied.blocks[1][0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network.blocks[1][0].weight.is_contiguous()
    images = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(copied(images), network(images), rtol=1e-5, atol=1e-5)
    assert encode(network, [images], precision="fp32").patches.shape == (2, 1, 1, 8)


def test_agreement_sees_what_a_format_loses(backbone, monkeypatch):
    half = at_precision(backbone, torch.bfloat16, CPU)
    assert agreement(backbone, backbone) == pytest.approx(1)
    assert 0.999 < agreement(backbone, half) < 1
    assert agreement(backbone, half) == agreement(backbone, half)
    monkeypatch.setattr(precision, "AGREEMENT", 1.1)
    assert not agrees(backbone, half)
    other = at_precision(backbone, torch.float64, CPU).float()
    torch.nn.init.normal_(other.model.pos_embed)
    assert agreement(backbone, other) < 0.99


def test_a_network_that_does_not_run_in_16_bits(backbone):
    half = at_precision(backbone, torch.bfloat16, CPU)
    assert agrees(backbone, half)

    def refuse(images, *_):
        raise RuntimeError(f"expected scalar type Float but found {images.dtype}")

    half.features = refuse
    assert not agrees(backbone, half)


def test_the_mode_is_put_back_also_after_an_error(backbone):
    for mode in (True, False):
        backbone.train(mode)
        with pytest.raises(KeyError), evaluating(backbone) as network:
            raise KeyError(network.training)
        assert backbone.training is mode


@pytest.fixture(params=["as this machine can", "no layout"])
def layout(request, monkeypatch):
    """Both outcomes on every machine: the processor lays out 16-bit matrices, or torch refuses to."""
    precision._can_pack.cache_clear()
    if request.param == "no layout":

        def refuse(*_):
            raise RuntimeError("mkldnn_reorder_linear_weight: fp16 path needs the cpu support")

        monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse)
    yield request.param
    precision._can_pack.cache_clear()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_packed_layers_are_plain_ones(dtype, layout):
    torch.manual_seed(0)
    plain, packed = torch.nn.Linear(24, 40).to(dtype), PackedLinear(24, 40).to(dtype)
    packed.load_state_dict(plain.state_dict())
    for shape in ((24,), (0, 24), (3, 24), (2, 5, 24), (1, 24), (4, 7, 3, 24)):
        inputs = torch.randn(shape).to(dtype)
        with torch.no_grad():
            # the order of a sum may differ: one rounding of the format
            torch.testing.assert_close(packed(inputs), plain(inputs), rtol=0.01, atol=0.01)
    strided = torch.randn(24, 6).to(dtype).T
    with torch.no_grad():
        torch.testing.assert_close(packed(strided), plain(strided), rtol=0.01, atol=0.01)
    assert packed(torch.randn(2, 24).to(dtype)).requires_grad
    assert (packed._packed is not None) is precision._can_pack(dtype, "cpu")
    assert layout != "no layout" or packed._packed is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_says_the_same_with_and_without_the_layout(backbone, dtype, layout):
    half = at_precision(backbone, dtype, CPU)
    kinds = {type(m) for m in half.modules() if isinstance(m, torch.nn.Linear)}
    assert kinds == {PackedLinear if precision._can_pack(dtype, "cpu") else torch.nn.Linear}
    assert agreement(backbone, half) > 0.999
    assert not precision._can_pack(dtype, "cuda")


def test_packed_layers_follow_their_weights():
    packed = PackedLinear(8, 8, bias=False).to(torch.bfloat16)
    inputs = torch.randn(2, 8)
    with torch.no_grad():
        packed(inputs.bfloat16())
        again = copy.deepcopy(packed).float()
        torch.testing.assert_close(again(inputs), inputs @ packed.weight.float().T)
        doubled = copy.deepcopy(packed)
        doubled.weight.data *= 2
        torch.testing.assert_close(
            doubled(inputs.bfloat16()), 2 * packed(inputs.bfloat16()), rtol=0.01, atol=0.01
        )


def test_16_bit_transformers_are_packed_and_can_be_copied(backbone):
    half = at_precision(backbone, torch.bfloat16, CPU)
    with torch.no_grad():
        expected = half(torch.ones(1, 3, 32, 32).bfloat16())
    again = at_precision(half, torch.float32, CPU)
    assert {type(m) for m in backbone.modules() if isinstance(m, torch.nn.Linear)} == {torch.nn.Linear}
    with torch.no_grad():
        torch.testing.assert_close(again(torch.ones(1, 3, 32, 32)), expected.float(), rtol=0.05, atol=0.05)
