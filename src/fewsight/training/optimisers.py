"""Optimisers by name: torch's own for the common ones, timm's factory for the rest."""

from __future__ import annotations

from typing import Any

import torch

from fewsight.errors import InvalidInput
from fewsight.training.settings import TrainingSettings

__all__ = ["make_optimiser"]


def make_optimiser(groups: list[dict[str, Any]], settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimiser of `settings.optimiser` over parameter groups; rates and decays are set at each step.

    `adam` couples its weight decay with the gradient, `adamw` does not.

    Raises:
        InvalidInput: the name is unknown to torch and timm, or nothing is left to train.
    """
    if not groups:
        raise InvalidInput("there is nothing to train: every parameter is frozen.")
    name, rate = settings.optimiser, settings.learning_rate
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
    if name == "adam":
        return torch.optim.Adam(groups, lr=rate, weight_decay=0.0)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    from timm.optim import create_optimizer_v2

    try:
        optimiser: torch.optim.Optimizer = create_optimizer_v2(groups, opt=name, lr=rate, weight_decay=0.0)
    except (ValueError, AssertionError) as error:
        raise InvalidInput(
            f"optimiser {name!r} is unknown: choose adamw, adam, sgd, or one of timm's ({error})."
        ) from error
    return optimiser
