"""Additions in a file: back to the bit, small, refused for other networks, weights and contents."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load, save
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fewsight.backbones.lora import LoraLinear, LoraQkv, add_lora, lora_layers, merge_lora
from fewsight.backbones.lora_file import load_lora, save_lora
from fewsight.backbones.reading import IncompatibleCheckpoint, read_header
from fewsight.errors import InvalidInput


def network(seed=0, **settings):
    torch.manual_seed(seed)
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    return VisionTransformer(**{**size, **settings}).eval()


def adapted(seed=0, **settings):
    made = network(seed, **settings)
    add_lora(made, r"\.attn\.(qkv|proj)$", rank=3, alpha=6.0)
    with torch.no_grad():
        for layer in lora_layers(made).values():
            layer.up.normal_()
    return made


@pytest.fixture
def file(tmp_path):
    save_lora(adapted(), tmp_path / "additions.safetensors")
    return tmp_path / "additions.safetensors"


def test_additions_come_back_to_the_bit(file):
    images, again = torch.randn(2, 3, 16, 16), network()
    names = load_lora(again, file)
    assert names == [f"blocks.{block}.attn.{layer}" for block in (0, 1) for layer in ("qkv", "proj")]
    kinds = {type(layer) for layer in lora_layers(again).values()}
    assert kinds == {LoraQkv, LoraLinear}
    with torch.no_grad():
        assert torch.equal(again(images), adapted()(images))
    assert {name for name, value in again.named_parameters() if value.requires_grad} == set(
        load(file.read_bytes())
    )
    load_lora(again, file)  # over additions that are there
    with torch.no_grad():
        assert torch.equal(again(images), adapted()(images))
    merge_lora(again)
    with torch.no_grad():
        assert torch.allclose(again(images), adapted()(images), atol=1e-4)


def test_only_the_additions_are_written(file):
    tensors = load(file.read_bytes())
    assert {name.rsplit(".", 1)[1] for name in tensors} == {"down", "up"}
    assert sum(value.numel() for value in tensors.values()) < 0.3 * sum(
        p.numel() for p in network().parameters()
    )


def test_refused_for_another_network_or_other_weights(file):
    for other, said in (
        (network(seed=1), "made for other weights"),
        (network(embed_dim=32), "has shape"),
        (network(depth=1), "no such linear layer"),
        (nn.Conv2d(3, 3, 1), "no such linear layer"),
    ):
        before = list(other.state_dict())
        with pytest.raises(IncompatibleCheckpoint, match=said):
            load_lora(other, file)
        assert list(other.state_dict()) == before


@pytest.mark.parametrize(
    "damage", ["no layers", "a missing tensor", "odd settings", "not a number", "other file"]
)
def test_damaged_files_are_refused(file, damage):
    tensors, metadata = load(file.read_bytes()), read_header(file)
    if damage == "no layers":
        del metadata["layers"]
    elif damage == "a missing tensor":
        del tensors["blocks.0.attn.qkv.up"]
    elif damage == "odd settings":
        metadata["layers"] = json.dumps({"blocks.0.attn.qkv": {"alpha": 1.0, "rank": [1]}})
    elif damage == "not a number":
        tensors["blocks.0.attn.qkv.up"][0, 0, 0] = float("nan")
    else:
        metadata = {}
    file.write_bytes(save(tensors, metadata))
    other = network()
    with pytest.raises(IncompatibleCheckpoint, match="additions"):
        load_lora(other, file)
    assert not lora_layers(other)


def test_errors(tmp_path):
    with pytest.raises(InvalidInput, match="no LoRA additions"):
        save_lora(network(), tmp_path / "additions.safetensors")
    with pytest.raises(InvalidInput, match="not a file"):
        load_lora(network(), tmp_path / "nothing.safetensors")
