"""Which parameters of a backbone train: all of them, its norms, low-rank additions, or none.

Norms alone: Samyadeep Basu et al., "Strong Baselines for Parameter Efficient Few-Shot Fine-tuning", AAAI 2024 (arXiv
2304.01917), LN-Tune. Additions: `lora`.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from fewsight.backbones.lora import add_lora, lora_layers
from fewsight.errors import InvalidInput

__all__ = ["TUNINGS", "Tuning", "select_tuning"]

Tuning = Literal["full", "layer_norm", "lora", "head"]
TUNINGS: tuple[Tuning, ...] = get_args(Tuning)
# query and value, in one matrix with the key (timm, the bundled network) or each its own (EVA)
_ATTENTION = r"\.attn\.(qkv|q_proj|v_proj)$"


def select_tuning(
    backbone: nn.Module, choice: Tuning, *, rank: int = 8, alpha: float = 8.0, seed: int = 0
) -> list[str]:
    """Mark the parameters of a backbone that train (`requires_grad`), and no others, in place.

    An optimiser, or `training.parameter_groups`, takes those that are marked; call this before either is made, since
    `lora` changes layers.

    Args:
        backbone: any network.
        choice: `full`: every parameter. `layer_norm`: scales and shifts of all norms; in convolutional networks these
            are batch norms, whose moments follow the training mode as ever. `lora`: low-rank additions to query and
            value of every attention; they are put in where there are none yet, and change nothing at first. `head`:
            none, only what stands behind the backbone learns.
        rank, alpha, seed: of additions that are put in; see `add_lora`.

    Returns:
        The names of the parameters that train, in the network's order.

    Raises:
        InvalidInput: the choice is unknown, or matches nothing in this network; nothing is changed then.

    >>> network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    >>> select_tuning(network, "layer_norm")
    ['1.weight', '1.bias']
    """
    if choice not in TUNINGS:
        raise InvalidInput(f"tuning {choice!r} is unknown; choose one of: {', '.join(TUNINGS)}.")
    if choice == "lora":
        wanted = _with_additions(backbone, rank, alpha, seed)
    elif choice == "layer_norm":
        wanted = _norms(backbone)
    else:
        wanted = {name for name, _ in backbone.named_parameters()} if choice == "full" else set()
    if not wanted and choice != "head":
        raise _nothing(backbone, choice)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in wanted)
    return [name for name, _ in backbone.named_parameters() if name in wanted]


def _norms(network: nn.Module) -> set[str]:
    """Names of the vectors of every norm: torch's, timm's and our own are all called so."""
    return {
        f"{place}.{name}" if place else name
        for place, module in network.named_modules()
        if "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 1
    }


def _with_additions(network: nn.Module, rank: int, alpha: float, seed: int) -> set[str]:
    if not lora_layers(network):
        try:
            add_lora(network, _ATTENTION, rank=rank, alpha=alpha, seed=seed)
        except InvalidInput as error:
            raise error if rank < 1 else _nothing(network, "lora") from None
    return {f"{name}.{part}" for name in lora_layers(network) for part in ("down", "up")}


def _nothing(network: nn.Module, choice: str) -> InvalidInput:
    name = getattr(network, "name", type(network).__name__)
    lacks = {"lora": "attention layer", "layer_norm": "norm with a scale of its own"}.get(choice, "parameter")
    return InvalidInput(
        f"tuning {choice!r} matches nothing in {name}: it has no {lacks}, so nothing would be trained; choose "
        f"another of: {', '.join(TUNINGS)}."
    )
