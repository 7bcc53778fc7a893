"""LoRA: a low-rank addition to a frozen linear layer.

Edward Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022 (arXiv 2106.09685), equation 3:
h = W x + b + (alpha / r) B A x. Rank-stabilised (Kalajdzievski 2023, arXiv 2312.03732): alpha / sqrt(r).

timm fuses query, key and value into one layer; `lora_qkv` adapts those parts of it that are wanted, each with matrices
of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewsight.errors import InvalidInput
from fewsight.seeding import torch_generator
from fewsight.shapes import check_shapes

__all__ = [
    "LoraLinear",
    "LoraQkv",
    "add_lora",
    "lora_layers",
    "lora_linear",
    "lora_qkv",
    "merge_lora",
    "merged_weight",
    "unmerge_lora",
]


def _factor(alpha: float, rank: int, rank_stabilised: bool) -> float:
    if not math.isfinite(alpha):
        raise InvalidInput(f"alpha is {alpha}; expected a finite number.")
    if rank < 1:
        raise InvalidInput(f"down has {rank} rows; expected a rank of at least 1.")
    return alpha / (math.sqrt(rank) if rank_stabilised else rank)


def lora_linear(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    down: Tensor,
    up: Tensor,
    *,
    alpha: float,
    rank_stabilised: bool = False,
) -> Tensor:
    """A linear layer with its low-rank addition.

    Args:
        inputs: `[..., I]`.
        weight: `[O, I]`.
        bias: `[O]` or None.
        down: A, `[r, I]`.
        up: B, `[O, r]`.
        alpha: the addition is multiplied by alpha / r, or alpha / sqrt(r) if `rank_stabilised`.

    Returns:
        `[..., O]`.

    Raises:
        InvalidInput: shapes disagree or alpha is not finite.
    """
    check_shapes(inputs=(inputs, "... I"), weight=(weight, "O I"), down=(down, "r I"), up=(up, "O r"))
    factor = _factor(alpha, len(down), rank_stabilised)
    return F.linear(inputs, weight, bias) + factor * F.linear(F.linear(inputs, down), up)


def merged_weight(
    weight: Tensor, down: Tensor, up: Tensor, *, alpha: float, rank_stabilised: bool = False
) -> Tensor:
    """The weight `[O, I]` of a plain layer that does the same. Keep the original: subtracting again drifts."""
    check_shapes(weight=(weight, "O I"), down=(down, "r I"), up=(up, "O r"))
    wide = torch.promote_types(weight.dtype, torch.float32)
    addition = up.to(wide) @ down.to(wide) * _factor(alpha, len(down), rank_stabilised)
    return (weight.to(wide) + addition).to(weight.dtype)


def lora_qkv(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    down: Tensor,
    up: Tensor,
    *,
    alpha: float,
    enabled: Sequence[bool],
) -> Tensor:
    """A fused query-key-value layer with low-rank additions to some of its parts.

    Args:
        inputs: `[..., D]`.
        weight: `[3 D, D]`, rows are query, key, value.
        bias: `[3 D]` or None.
        down: `[E, r, D]`, one for each enabled part, in the order query, key, value.
        up: `[E, D, r]`.
        alpha: the additions are multiplied by alpha / r.
        enabled: which of query, key and value are adapted.

    Returns:
        `[..., 3 D]`.

    Raises:
        InvalidInput: shapes disagree, or `enabled` does not name three parts, E of them True.
    """
    sizes = check_shapes(
        inputs=(inputs, "... D"), weight=(weight, "T D"), down=(down, "E r D"), up=(up, "E D r")
    )
    if len(enabled) != 3 or sum(enabled) != sizes["E"] or sizes["T"] != 3 * sizes["D"]:
        raise InvalidInput(
            f"enabled is {list(enabled)} with {sizes['E']} additions and weight {list(weight.shape)}; expected three "
            f"parts, as many True as there are additions, and weight [3 D, D]."
        )
    outputs = F.linear(inputs, weight, bias)
    if not sizes["E"]:
        return outputs
    factor = _factor(alpha, sizes["r"], False)
    low = F.linear(inputs, down.flatten(0, 1)).unflatten(-1, (sizes["E"], sizes["r"]))  # type: ignore[no-untyped-call]
    additions = torch.einsum("...er,edr->...ed", low, up) * factor  # [..., E, D]
    parts = outputs.unflatten(-1, (3, sizes["D"]))  # type: ignore[no-untyped-call]
    columns = [part for part, wanted in enumerate(enabled) if wanted]
    return parts.index_add(-2, torch.tensor(columns, device=inputs.device), additions).flatten(-2)


class LoraLinear(nn.Module):
    """A frozen linear layer with a trained low-rank addition; see `lora_linear`. It starts as the plain layer."""

    def __init__(
        self,
        layer: nn.Linear,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.layer, self.alpha, self.dropout = layer.requires_grad_(False), alpha, dropout
        self.down = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))
        self.up = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5), generator=generator)

    @property
    def weight(self) -> Tensor:
        """The matrix that acts, `[O, I]`, for networks that multiply by it themselves; has gradients."""
        return merged_weight(self.layer.weight, self.down, self.up, alpha=self.alpha)

    @property
    def bias(self) -> Tensor | None:
        """Of the frozen layer."""
        return self.layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """`[..., I]` -> `[..., O]`."""
        if self.training and self.dropout:
            factor = _factor(self.alpha, len(self.down), False)
            dropped = F.dropout(inputs, self.dropout)
            return self.layer(inputs) + factor * F.linear(F.linear(dropped, self.down), self.up)
        return lora_linear(inputs, self.layer.weight, self.layer.bias, self.down, self.up, alpha=self.alpha)

    def merged(self) -> nn.Linear:
        """A plain layer that does the same."""
        return _with_weight(self.layer, self.weight.detach())


class LoraQkv(nn.Module):
    """A frozen fused query-key-value layer with trained additions; see `lora_qkv`. It starts as the plain layer."""

    def __init__(
        self,
        layer: nn.Linear,
        *,
        rank: int,
        alpha: float,
        enabled: Sequence[bool] = (True, False, True),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.layer, self.alpha, self.enabled = layer.requires_grad_(False), alpha, tuple(enabled)
        parts, width = sum(self.enabled), layer.in_features
        self.down = nn.Parameter(layer.weight.new_empty(parts, rank, width))
        self.up = nn.Parameter(layer.weight.new_zeros(parts, width, rank))
        for matrix in self.down:
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5), generator=generator)

    @property
    def weight(self) -> Tensor:
        """The matrix that acts, `[3 D, D]`, for networks that multiply by it themselves; has gradients."""
        parts = list(self.layer.weight.chunk(3))
        columns = [part for part, wanted in enumerate(self.enabled) if wanted]
        for column, down, up in zip(columns, self.down, self.up, strict=True):
            parts[column] = merged_weight(parts[column], down, up, alpha=self.alpha)
        return torch.cat(parts)

    @property
    def bias(self) -> Tensor | None:
        """Of the frozen layer."""
        return self.layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """`[..., D]` -> `[..., 3 D]`."""
        weight, bias = self.layer.weight, self.layer.bias
        return lora_qkv(inputs, weight, bias, self.down, self.up, alpha=self.alpha, enabled=self.enabled)

    def merged(self) -> nn.Linear:
        """A plain layer that does the same."""
        return _with_weight(self.layer, self.weight.detach())


def _with_weight(layer: nn.Linear, weight: Tensor) -> nn.Linear:
    plain = nn.Linear(
        layer.in_features, layer.out_features, layer.bias is not None, weight.device, weight.dtype
    )
    with torch.no_grad():
        plain.weight.copy_(weight)
        if layer.bias is not None:
            plain.bias.copy_(layer.bias)
    return plain


def add_lora(
    network: nn.Module,
    pattern: str = r"\.attn\.qkv$",
    *,
    rank: int = 8,
    alpha: float = 8.0,
    seed: int = 0,
) -> list[str]:
    """Freeze a network and put additions on the linear layers whose names match `pattern`, in place.

    Fused query-key-value layers (three times as many outputs as inputs) are adapted in query and value. The start of
    each layer's additions depends on `seed` and the layer's place alone.

    Returns:
        The names of the adapted layers.

    Raises:
        InvalidInput: no linear layer matches, or the rank is below 1; nothing is changed then.
    """
    if rank < 1:
        raise InvalidInput(f"rank is {rank}; expected at least 1.")
    found = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and re.search(pattern, name)
    ]
    if not found:
        raise InvalidInput(
            f"pattern {pattern!r} matches no linear layer of the network; nothing would be trained."
        )
    network.requires_grad_(False)
    for place, (name, layer) in enumerate(found):
        kind = LoraQkv if layer.out_features == 3 * layer.in_features else LoraLinear
        generator = torch_generator(seed, "lora", place, device=layer.weight.device)
        network.set_submodule(name, kind(layer, rank=rank, alpha=alpha, generator=generator))
    return [name for name, _ in found]


def lora_layers(network: nn.Module) -> dict[str, LoraLinear | LoraQkv]:
    """The layers with additions by name, in the network's order; empty where there are none."""
    return {
        name: layer for name, layer in network.named_modules() if isinstance(layer, (LoraLinear, LoraQkv))
    }


def merge_lora(network: nn.Module) -> dict[str, LoraLinear | LoraQkv]:
    """Put plain layers that do the same in the place of all additions, in place.

    Returns:
        What was replaced, for `unmerge_lora`; it holds the frozen weights as they were.
    """
    kept = lora_layers(network)
    for name, layer in kept.items():
        network.set_submodule(name, layer.merged())
    return kept


def unmerge_lora(network: nn.Module, kept: Mapping[str, LoraLinear | LoraQkv]) -> None:
    """Undo `merge_lora`, in place and to the bit: nothing is subtracted, the kept layers return.

    Raises:
        InvalidInput: the network has no plain layer of a kept name and shape; nothing is changed then.
    """
    modules = dict(network.named_modules())
    for name, layer in kept.items():
        plain = modules.get(name)
        if not isinstance(plain, nn.Linear) or plain.weight.shape != layer.layer.weight.shape:
            raise InvalidInput(
                f"{name!r} is no linear layer of shape {list(layer.layer.weight.shape)} here; give the network "
                f"that `merge_lora` returned these layers of."
            )
    for name, layer in kept.items():
        network.set_submodule(name, layer)
