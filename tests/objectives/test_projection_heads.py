"""Projectors, prototypes and batch norm of heads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewsight.errors import InvalidInput
from fewsight.objectives.projection_heads import ClusterHead, GlobalBatchNorm, PrototypeLayer, mlp


@pytest.mark.parametrize("affine", ["full", "scale", "none"])
def test_batch_norm_is_torchs_in_one_process(affine):
    rows = 3 + 2 * torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = GlobalBatchNorm(5, affine).double()
    theirs = nn.BatchNorm1d(5, affine=affine != "none").double()
    mine, other = rows.clone().requires_grad_(True), rows.clone().requires_grad_(True)
    weight = torch.arange(1.0, 6.0, dtype=torch.float64)
    ours_out, theirs_out = ours(mine), theirs(other)
    torch.testing.assert_close(ours_out, theirs_out, rtol=1e-12, atol=1e-12)
    (ours_out.square() @ weight).sum().backward()
    (theirs_out.square() @ weight).sum().backward()
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    assert sum(p.numel() for p in ours.parameters()) == {"full": 10, "scale": 5, "none": 0}[affine]


def test_batch_norm_in_evaluation_takes_running_moments():
    norm = GlobalBatchNorm(3).eval()
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(norm(rows), rows, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_batch_norm_stays_in_float32_under_autocast():
    rows = 1000 + torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    norm = GlobalBatchNorm(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = norm(rows)
    torch.testing.assert_close(out, GlobalBatchNorm(4)(rows))


@pytest.mark.parametrize(
    ("made", "shapes", "norms"),
    [
        # SimCLR, MoCo-v3's projector and predictor, SwAV, MSN, DINO, as in the table of the module
        (mlp([8, 8, 8, 5], last="scaled"), [(8, 8), (8, 8), (5, 8)], [16, 16, 5]),
        (mlp([8, 16, 16, 5], last="plain"), [(16, 8), (16, 16), (5, 16)], [32, 32, 0]),
        (mlp([5, 16, 5], last="plain"), [(16, 5), (5, 16)], [32, 0]),
        (mlp([8, 16, 5]), [(16, 8), (5, 16)], [32]),
        (mlp([8, 16, 16, 5], activation="gelu"), [(16, 8), (16, 16), (5, 16)], [32, 32]),
        (mlp([8, 16, 16, 5], activation="gelu", hidden_norm=False), [(16, 8), (16, 16), (5, 16)], []),
    ],
)
def test_layers_are_those_of_the_publications(made, shapes, norms):
    layers = [layer for layer in made if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == shapes
    found = [layer for layer in made if isinstance(layer, GlobalBatchNorm)]
    assert [sum(p.numel() for p in norm.parameters()) for norm in found] == norms
    followed = [isinstance(after, GlobalBatchNorm) for after in [*made][1:]] + [False]
    for layer, by_norm in zip(made, followed, strict=True):
        if isinstance(layer, nn.Linear):
            assert (layer.bias is None) == by_norm


def test_one_width_is_no_network():
    with pytest.raises(InvalidInput, match="widths"):
        mlp([8])


def test_logits_of_unit_rows_are_cosines():
    layer = PrototypeLayer(4, 9)
    with torch.no_grad():
        layer.weight_v.mul_(torch.linspace(0.1, 50, 9)[:, None])
    rows = nn.functional.normalize(torch.randn(20, 4), dim=1)
    assert layer(rows).abs().max() <= 1 + 1e-6
    reference = nn.utils.parametrizations.weight_norm(nn.Linear(4, 9, bias=False))
    with torch.no_grad():
        reference.parametrizations.weight.original0.fill_(1)
        reference.parametrizations.weight.original1.copy_(layer.weight_v)
    torch.testing.assert_close(layer(rows), reference(rows))


def test_patches_share_the_class_layer_or_have_their_own():
    shared, own = ClusterHead(8, 6, hidden=16, bottleneck=4), ClusterHead(8, 6, patch_prototypes=5, hidden=16)
    tokens = torch.randn(3, 7, 8)
    assert shared.patch_layer is None
    torch.testing.assert_close(shared.of_patch_rows(shared.rows(tokens)), shared(tokens))
    assert own.of_patch_rows(own.rows(tokens)).shape == (3, 7, 5)
    torch.testing.assert_close(own.rows(tokens).norm(dim=-1), torch.ones(3, 7))
