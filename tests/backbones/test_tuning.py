"""Choices of what trains: names, steps that move only those, every kind of network, errors."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.models.beit import Beit
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from fewsight.backbones.bundled import BundledBackbone
from fewsight.backbones.conv4 import Conv4
from fewsight.backbones.convnet import ConvolutionalBackbone
from fewsight.backbones.features import Request
from fewsight.backbones.lora import merge_lora, unmerge_lora
from fewsight.backbones.resnet import ResNet34
from fewsight.backbones.resnet12 import ResNet12
from fewsight.backbones.tuning import TUNINGS, select_tuning
from fewsight.backbones.vit import BeitBackbone, RotaryBackbone, VisionTransformerBackbone
from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
SHAPE = Transform(size=(32, 32))


def vit(**settings):
    return VisionTransformerBackbone(VisionTransformer(**TINY, **settings), name="vit", transform=SHAPE)


def beit():
    return BeitBackbone(Beit(**TINY, use_rel_pos_bias=True), name="beit", transform=SHAPE)


def eva():
    return RotaryBackbone(Eva(**TINY, qkv_fused=False, use_rot_pos_emb=True), name="eva", transform=SHAPE)


def convnext():
    network = ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=0, ls_init_value=1.0)
    return ConvolutionalBackbone(network, name="convnext", transform=SHAPE)


TRANSFORMERS = {"vit": vit, "beit": beit, "eva": eva, "bundled": BundledBackbone}
CONVOLUTIONS = {
    "conv4": Conv4,
    "resnet12": ResNet12,
    "resnet34": ResNet34,
    "convnext": convnext,
}


def images(network):
    side = min(64, *network.image_size)
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def made(kind):
    torch.manual_seed(0)
    return {**TRANSFORMERS, **CONVOLUTIONS}[kind]().eval()


def trained(network):
    """The names that one step of plain gradient descent moved."""
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    wanted = [value for value in network.parameters() if value.requires_grad]
    features = network.features(images(network))
    parts = [part for part in (features.cls, features.patches) if part is not None]
    weights = torch.Generator().manual_seed(2)
    loss = sum((part * torch.randn(part.shape, generator=weights)).sum() for part in parts)
    loss.backward()
    torch.optim.SGD(wanted, lr=0.1).step()
    return {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("kind", [*TRANSFORMERS, *CONVOLUTIONS])
def test_norms_alone(kind):
    network = made(kind)
    names = select_tuning(network, "layer_norm")
    assert names == [name for name, value in network.named_parameters() if value.requires_grad]
    assert 0 < sum(value.numel() for value in network.parameters() if value.requires_grad) < 20_000
    assert all(network.get_parameter(name).ndim == 1 for name in names)
    # timm's head has a norm behind the map that our features are
    assert trained(network) == {name for name in names if not name.startswith("model.head.")}


def test_the_norms_of_a_transformer_are_all_found():
    names = select_tuning(made("vit"), "layer_norm")
    expected = [
        f"model.blocks.{i}.{norm}.{part}"
        for i in (0, 1)
        for norm in ("norm1", "norm2")
        for part in ("weight", "bias")
    ]
    assert names == [*expected, "model.norm.weight", "model.norm.bias"]
    with_query_norms = vit(qk_norm=True)
    assert "model.blocks.0.attn.q_norm.weight" in select_tuning(with_query_norms, "layer_norm")


@pytest.mark.parametrize("kind", [*TRANSFORMERS, *CONVOLUTIONS])
def test_all_and_none(kind):
    network = made(kind)
    assert select_tuning(network, "head") == []
    assert not any(value.requires_grad for value in network.parameters())
    assert select_tuning(network, "full") == [name for name, _ in network.named_parameters()]
    assert all(value.requires_grad for value in network.parameters())


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_additions_start_at_nothing_and_alone_move(kind):
    network = made(kind)
    request = Request(keys=True, class_query=True, attention=kind != "eva")
    with torch.no_grad():
        before = network.features(images(network), request)
    names = select_tuning(network, "lora", rank=2, alpha=4.0, seed=3)
    assert len(names) % (2 * network.depth) == 0
    with torch.no_grad():
        for one, two in zip(before, network.features(images(network), request), strict=True):
            assert one is two is None or torch.allclose(one, two, atol=1e-5)
    assert trained(network) == {name for name in names if name.endswith(".up")}  # `down` has no gradient yet
    assert trained(network) <= set(names)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_additions_merge_and_come_back(kind):
    network = made(kind)
    plain = set(network.state_dict())
    select_tuning(network, "lora", rank=2, alpha=4.0)
    trained(network)
    with torch.no_grad():
        adapted = network.features(images(network), Request(keys=True))
    state = copy.deepcopy(network.state_dict())
    kept = merge_lora(network)
    assert set(network.state_dict()) == plain
    with torch.no_grad():
        merged = network.features(images(network), Request(keys=True))
    for one, two in zip(adapted, merged, strict=True):
        assert one is two is None or torch.allclose(one, two, atol=1e-4)
    unmerge_lora(network, kept)
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_the_same_seed_gives_the_same_additions():
    def start(seed, disturbed=False):
        network = made("vit")
        torch.manual_seed(int(disturbed))
        select_tuning(network, "lora", seed=seed)
        return network.state_dict()["model.blocks.1.attn.qkv.down"]

    assert torch.equal(start(0), start(0, disturbed=True))
    assert not torch.equal(start(0), start(1))


def test_additions_that_are_there_are_kept():
    network = made("vit")
    names = select_tuning(network, "lora", rank=2)
    trained(network)
    state = copy.deepcopy(network.state_dict())
    select_tuning(network, "head")
    assert select_tuning(network, "lora", rank=5, seed=9) == names
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("kind", ["conv4", "convnext"])
def test_a_choice_that_matches_nothing(kind):
    network = made(kind)
    with pytest.raises(InvalidInput, match=r"'lora' matches nothing in .*no attention layer.*layer_norm"):
        select_tuning(network, "lora")
    assert all(value.requires_grad for value in network.parameters())


def test_errors():
    with pytest.raises(
        InvalidInput, match="tuning 'bitfit' is unknown; choose one of: full, layer_norm, lora"
    ):
        select_tuning(made("vit"), "bitfit")
    with pytest.raises(InvalidInput, match="rank is 0"):
        select_tuning(made("vit"), "lora", rank=0)
    with pytest.raises(InvalidInput, match="no norm with a scale"):
        select_tuning(torch.nn.Linear(2, 2), "layer_norm")
    assert TUNINGS == ("full", "layer_norm", "lora", "head")
