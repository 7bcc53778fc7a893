"""LoRA: merged weights, parts of a fused layer, adding to and merging in a network; errors."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewsight.backbones.lora import (
    LoraLinear,
    LoraQkv,
    add_lora,
    lora_linear,
    lora_qkv,
    merge_lora,
    merged_weight,
)
from fewsight.errors import InvalidInput


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_merged_weight_does_the_same(rank_stabilised):
    inputs, weight, down, up = normal(2, 3, 5), normal(4, 5), normal(2, 5), normal(4, 2)
    settings = {"alpha": 3.0, "rank_stabilised": rank_stabilised}
    expected = inputs @ merged_weight(weight, down, up, **settings).T
    torch.testing.assert_close(lora_linear(inputs, weight, None, down, up, **settings), expected)


def test_parts_that_are_not_enabled_stay():
    inputs, weight, bias = normal(2, 3, 4), normal(12, 4), normal(12)
    outputs = lora_qkv(
        inputs, weight, bias, normal(1, 2, 4), normal(1, 4, 2), alpha=2.0, enabled=[False, True, False]
    )
    # the very bits of the plain layer; a product and a sum apart may round otherwise on some processors
    plain = F.linear(inputs, weight, bias)
    difference = (outputs - plain).abs().amax((0, 1))
    assert difference[:4].max() == difference[8:].max() == 0
    assert difference[4:8].min() > 0
    none = lora_qkv(inputs, weight, bias, normal(0, 2, 4), normal(0, 4, 2), alpha=2.0, enabled=[False] * 3)
    assert torch.equal(none, plain)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.ModuleDict({"qkv": nn.Linear(4, 12), "proj": nn.Linear(4, 4)})
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        q, k, v = self.attn["qkv"](x).chunk(3, -1)
        return self.head(self.attn["proj"](torch.softmax(q @ k.mT, -1) @ v))


def test_added_layers_start_as_the_plain_ones_and_alone_are_trained():
    torch.manual_seed(0)
    network, x = Network(), torch.randn(3, 6, 4)
    before = network(x)
    assert add_lora(network, r"attn\.(qkv|proj)$", rank=2) == ["attn.qkv", "attn.proj"]
    assert isinstance(network.attn["qkv"], LoraQkv)
    assert isinstance(network.attn["proj"], LoraLinear)
    assert torch.equal(network(x), before)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {"attn.qkv.down", "attn.qkv.up", "attn.proj.down", "attn.proj.up"}
    network(x).sum().backward()
    assert network.attn["qkv"].up.grad.abs().max() > 0


def test_merging_gives_plain_layers_that_do_the_same():
    torch.manual_seed(0)
    network, x = Network().double(), normal(3, 6, 4)
    names = set(network.state_dict())
    add_lora(network, r"attn\.", rank=2, alpha=5.0)
    for name, parameter in network.named_parameters():
        if name.endswith("up"):
            nn.init.normal_(parameter)
    adapted = network(x)
    merge_lora(network)
    assert set(network.state_dict()) == names
    torch.testing.assert_close(network(x), adapted, rtol=1e-9, atol=1e-12)


def test_dropout_acts_on_the_addition_alone():
    layer = LoraLinear(nn.Linear(4, 4), rank=2, alpha=2.0, dropout=0.5).train()
    x = torch.randn(5, 4)
    assert torch.equal(layer(x), layer.layer(x))
    nn.init.ones_(layer.up)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_errors():
    with pytest.raises(InvalidInput, match="matches no linear layer"):
        add_lora(Network(), "query")
    with pytest.raises(InvalidInput, match="down"):
        lora_linear(normal(2, 3), normal(4, 3), None, normal(2, 5), normal(4, 2), alpha=1.0)
    with pytest.raises(InvalidInput, match="alpha"):
        lora_linear(normal(2, 3), normal(4, 3), None, normal(2, 3), normal(4, 2), alpha=float("nan"))
    with pytest.raises(InvalidInput, match="rank"):
        lora_linear(normal(2, 3), normal(4, 3), None, normal(0, 3), normal(4, 0), alpha=1.0)
    for enabled in ([True], [True, True, False]):
        with pytest.raises(InvalidInput, match="enabled"):
            lora_qkv(
                normal(2, 4),
                normal(12, 4),
                None,
                normal(1, 2, 4),
                normal(1, 4, 2),
                alpha=1.0,
                enabled=enabled,
            )
