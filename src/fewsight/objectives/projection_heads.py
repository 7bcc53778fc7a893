"""Heads between a backbone and a self-supervised loss: projectors, prototype layers, batch norm over ranks.

    SimCLR             D -> D -> D -> 128       batch norm after each; the last one without offset
    MoCo-v3 projector  D -> 4096 -> 4096 -> 256 the same; the last one without scale and offset
    MoCo-v3 predictor  256 -> 4096 -> 256       the same
    SwAV               D -> 2048 -> 128         batch norm after the hidden layer
    MSN                D -> 2048 -> 2048 -> 256 batch norm after hidden layers, GELU
    DINO, iBOT, MC-SSL D -> 2048 -> 2048 -> 256 no norm, GELU; unit rows; weight-normalised layer of K prototypes

Sources: the authors' code of each. Differs from it: a layer that batch norm follows has no bias, which the norm
would remove; batch moments are those of all ranks on every device, by the differentiable sums of
`fewsight.backbones.support_norm`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewsight.backbones.support_norm import moments, normalise
from fewsight.distributed import world_size
from fewsight.errors import InvalidInput
from fewsight.objectives.blocks import at_least_float32, full_precision
from fewsight.objectives.info_nce import unit_rows
from fewsight.progress import say

__all__ = ["ClusterHead", "GlobalBatchNorm", "PrototypeLayer", "mlp"]

FEW_ROWS = 16  # of all ranks


class GlobalBatchNorm(nn.Module):
    """Batch norm of rows `[R, C]` with the moments of all ranks, in float32 at least.

    Args:
        channels: C.
        affine: `full`, `scale` (no offset) or `none`.
        momentum: of the running moments, which serve in evaluation mode only.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        channels: int,
        affine: Literal["full", "scale", "none"] = "full",
        *,
        momentum: float = 0.1,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.weight = None if affine == "none" else nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if affine == "full" else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, rows: Tensor) -> Tensor:
        """Normalised rows, in their own dtype."""
        with full_precision(rows):
            maps = at_least_float32(rows)[..., None, None]  # [R, C, 1, 1]
            mean, var = self._moments(maps)
            one = torch.ones_like(mean) if self.weight is None else self.weight.to(mean.dtype)
            zero = torch.zeros_like(mean) if self.bias is None else self.bias.to(mean.dtype)
            return normalise(maps, mean, var, one, zero, self.epsilon)[..., 0, 0].to(rows.dtype)

    def _moments(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.running_mean.to(maps.dtype), self.running_var.to(maps.dtype)
        rows = len(maps) * world_size()
        if rows < FEW_ROWS:
            say(
                f"Batch norm in a projection head over {rows} rows: its moments are mostly noise below {FEW_ROWS}. "
                "Take a larger batch, or dino or ibot, whose heads have none.",
                once=True,
            )
        mean, var = moments(maps, over_ranks=True)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(var.to(self.running_var.dtype), self.momentum)
        return mean, var


def mlp(
    widths: Sequence[int],
    *,
    activation: Literal["relu", "gelu"] = "relu",
    hidden_norm: bool = True,
    last: Literal["linear", "scaled", "plain"] = "linear",
) -> nn.Sequential:
    """Layers from `widths[0]` to `widths[-1]`.

    Args:
        hidden_norm: batch norm after each hidden layer.
        last: `linear` with bias, or batch norm after it with a scale (`scaled`) or without (`plain`).

    Raises:
        InvalidInput: fewer than two widths.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise InvalidInput(f"widths are {list(widths)}; expected two or more whole numbers above 0.")
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths[:-1]):
        layers.append(nn.Linear(before, after, bias=not hidden_norm))
        if hidden_norm:
            layers.append(GlobalBatchNorm(after))
        layers.append(nn.ReLU() if activation == "relu" else nn.GELU())
    layers.append(nn.Linear(widths[-2], widths[-1], bias=last == "linear"))
    if last != "linear":
        layers.append(GlobalBatchNorm(widths[-1], "scale" if last == "scaled" else "none"))
    return nn.Sequential(*layers)


class PrototypeLayer(nn.Module):
    """Weight-normalised linear layer without bias: `logits_k = g_k <v_k / |v_k|, x>`, `[..., D]` -> `[..., K]`.

    Parameter names are those of the published files. v starts as torch's linear layers do, g at 1.

    Args:
        learn_scale: whether g is trained; fixed at 1, logits of unit rows are cosines.
    """

    def __init__(self, dim: int, prototypes: int, *, learn_scale: bool = False) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(nn.Linear(dim, prototypes, bias=False).weight.detach().clone())
        self.weight_g = nn.Parameter(torch.ones(prototypes, 1), requires_grad=learn_scale)

    def freeze(self, frozen: bool) -> None:
        """Take the layer out of training for now; without gradient, no optimiser moves or decays it."""
        self.weight_v.requires_grad_(not frozen)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits of unit rows."""
        with full_precision(rows):
            weight = F.normalize(self.weight_v, dim=1)
            if self.weight_g.requires_grad:
                weight = weight * self.weight_g
        return F.linear(rows, weight)


class ClusterHead(nn.Module):
    """Class and patch tokens `[..., D]` -> logits: MLP, unit rows, prototypes.

    Args:
        dim: D of the tokens.
        prototypes: K of class tokens.
        patch_prototypes: P of patch tokens with a layer of their own; 0 = patches share the class layer.
        hidden, bottleneck, layers: of the MLP; for few labels a hidden width of 1024 is better than 2048
            (Ruan et al., ICLR 2023, appendix C.2).
        learn_scale: whether prototypes have learnable lengths.
    """

    def __init__(
        self,
        dim: int,
        prototypes: int,
        *,
        patch_prototypes: int = 0,
        hidden: int = 2048,
        bottleneck: int = 256,
        layers: int = 3,
        learn_scale: bool = False,
    ) -> None:
        super().__init__()
        widths = [dim, *[hidden] * (layers - 1), bottleneck]
        self.mlp = mlp(widths, activation="gelu", hidden_norm=False)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = PrototypeLayer(bottleneck, prototypes, learn_scale=learn_scale)
        self.patch_layer = (
            PrototypeLayer(bottleneck, patch_prototypes, learn_scale=learn_scale)
            if patch_prototypes
            else None
        )

    def rows(self, tokens: Tensor) -> Tensor:
        """Unit rows in front of the prototypes, `[..., bottleneck]`."""
        projected: Tensor = self.mlp(tokens)
        return unit_rows(projected)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of class tokens, `[..., K]`."""
        logits: Tensor = self.last_layer(self.rows(tokens))
        return logits

    def of_patch_rows(self, rows: Tensor) -> Tensor:
        """Logits `[..., P]` of what `rows` made of patch tokens."""
        layer = self.patch_layer or self.last_layer
        logits: Tensor = layer(rows)
        return logits

    def freeze_prototypes(self, frozen: bool) -> None:
        """Both prototype layers."""
        for layer in (self.last_layer, self.patch_layer):
            if layer is not None:
                layer.freeze(frozen)
