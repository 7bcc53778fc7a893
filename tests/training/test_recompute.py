"""Gradient checkpointing changes memory and nothing else: values, gradients, moments, dropout, copies."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fewsight.backbones.architectures import untrained_backbone
from fewsight.backbones.backbone import Backbone
from fewsight.training.blocks import compute_blocks
from fewsight.training.recompute import recompute_blocks


def made(name: str) -> Backbone:
    if name == "vit_tiny_patch16_224":
        return untrained_backbone(
            name, image_size=32, depth=2, embed_dim=48, num_heads=3, drop_path_rate=0.5
        ).train()
    return untrained_backbone(name, image_size=32).train()


def passed(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    value = backbone(images).square().mean()
    value.backward()
    return value.detach()


@pytest.mark.parametrize("name", ["conv4", "resnet12", "resnet34-s16", "vit_tiny_patch16_224", "resnet10t"])
def test_same_values_gradients_and_buffers(name: str) -> None:
    plain = made(name)
    saving = copy.deepcopy(plain)
    assert len(compute_blocks(saving)) >= 2
    recompute_blocks(compute_blocks(saving))
    recompute_blocks(compute_blocks(saving))  # again changes nothing
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(passed(plain, images), passed(saving, images))
    for (key, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0, msg=key)
    assert all(torch.equal(one, other) for one, other in zip(plain.buffers(), saving.buffers(), strict=True))
    assert list(plain.state_dict()) == list(saving.state_dict())


def test_activations_are_not_kept_and_copies_are_their_own() -> None:
    def kept(network: nn.Module) -> int:
        sizes: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(torch.randn(64, 8, requires_grad=True))
        return sum(sizes)

    network = nn.Sequential(
        *(nn.Sequential(nn.Linear(8, 256), nn.GELU(), nn.Linear(256, 8)) for _ in range(3))
    )
    before = kept(network)
    recompute_blocks(compute_blocks(network))
    assert kept(network) < before / 10
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert twin(torch.ones(1, 8)).abs().sum() == 0
    assert network(torch.ones(1, 8)).abs().sum() > 0
