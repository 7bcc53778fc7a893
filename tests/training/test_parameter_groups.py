"""Groups of parameters: what trains, at which share of the rate, with or without decay."""

from __future__ import annotations

import pytest
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fewsight.backbones.bundled import BundledBackbone
from fewsight.backbones.conv4 import Conv4
from fewsight.backbones.tuning import select_tuning
from fewsight.backbones.vit import VisionTransformerBackbone
from fewsight.errors import InvalidInput
from fewsight.objectives.objective import Objective
from fewsight.training.parameter_groups import parameter_groups
from fewsight.training.settings import TrainingSettings


class Trained(Objective):
    """A backbone with a linear layer behind it."""

    def __init__(self, network):
        super().__init__()
        self.network, self.head = network, nn.Linear(network.dim, 3)

    def forward(self, batch):
        raise NotImplementedError

    def backbone(self):
        return self.network


def vit():
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    return VisionTransformerBackbone(VisionTransformer(**size), name="vit")


def factors(network, **settings):
    """The factor of each trained parameter by name."""
    objective = Trained(network)
    names = {id(value): name for name, value in objective.named_parameters()}
    groups = parameter_groups(objective, TrainingSettings(steps=1, **settings))
    for group in groups:
        decays_all = settings.get("decay_vectors", False)
        assert all(group["decays"] == (value.ndim > 1 or decays_all) for value in group["params"])
    return {names[id(value)]: group["factor"] for group in groups for value in group["params"]}


@pytest.mark.parametrize("choice", ["full", "layer_norm", "lora", "head"])
@pytest.mark.parametrize("make", [vit, BundledBackbone])
def test_what_is_chosen_is_what_trains(make, choice):
    network = make()
    chosen = {f"network.{name}" for name in select_tuning(network, choice)}
    expected = dict.fromkeys(chosen, 0.5) | {"head.weight": 1.0, "head.bias": 1.0}
    assert factors(network, backbone_rate=0.5) == expected


def test_norms_of_a_convolutional_network():
    network = Conv4(8)
    chosen = select_tuning(network, "layer_norm")
    assert set(factors(network)) == {f"network.{name}" for name in chosen} | {"head.weight", "head.bias"}


def test_rates_fall_with_depth():
    found = factors(vit(), layer_decay=0.5)
    assert found["network.model.patch_embed.proj.weight"] == found["network.model.pos_embed"] == 0.125
    assert found["network.model.blocks.0.attn.qkv.weight"] == 0.25
    assert found["network.model.blocks.1.attn.qkv.weight"] == found["network.model.norm.weight"] == 0.5
    assert found["head.weight"] == 1.0


def test_the_bundled_trunk_comes_before_the_blocks():
    found = factors(BundledBackbone(), layer_decay=0.5)
    assert {found[name] for name in found if ".trunk." in name or ".embed." in name} == {0.5**5}
    assert found["network.blocks.3.mlp.fc1.weight"] == 0.5


def test_additions_of_a_block_have_its_rate():
    network = vit()
    select_tuning(network, "lora")
    found = factors(network, layer_decay=0.5)
    assert found["network.model.blocks.0.attn.qkv.up"] == 0.25
    assert found["network.model.blocks.1.attn.qkv.down"] == 0.5


def test_a_rate_of_nothing_leaves_the_backbone_out():
    network = vit()
    assert set(factors(network, backbone_rate=0.0)) == {"head.weight", "head.bias"}
    assert not any(value.requires_grad for value in network.parameters())


def test_vectors_decay_only_if_asked():
    assert factors(vit(), decay_vectors=True) == factors(vit())  # `factors` looks at the decays


def test_rate_factors_by_name():
    network = vit()
    found = factors(network, rate_factors={"*patch_embed*": 0.0, "head.*": 0.5, "*.weight": 0.5})
    assert (found["head.weight"], found["head.bias"]) == (0.25, 0.5)
    assert not [name for name in found if "patch_embed" in name]
    frozen = [name for name, value in network.named_parameters() if not value.requires_grad]
    assert frozen == ["model.patch_embed.proj.weight", "model.patch_embed.proj.bias"]
    with pytest.raises(InvalidInput, match="fits none"):
        factors(vit(), rate_factors={"nonsense*": 0.5})


def test_groups_tell_the_backbone():
    groups = parameter_groups(Trained(vit()), TrainingSettings(steps=1))
    assert sum(len(group["params"]) for group in groups if not group["backbone"]) == 2
