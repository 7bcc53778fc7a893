"""Optimisers by name: torch's own for the common ones, timm's factory for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fewsight.errors import InvalidInput
from fewsight.training.settings import TrainingSettings

__all__ = ["make_optimiser"]


def make_optimiser(groups: list[dict[str, Any]], settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimiser of `settings.optimiser` over parameter groups; rates and decays are set at each step.

    `adam` couples its weight decay with the gradient, `adamw` does not.

    `lars` and `larc` leave groups without weight decay (vectors) unscaled, as SimCLR and SwAV do.

    Raises:
        InvalidInput: the name is unknown to torch and timm, its settings do not fit, or nothing is left to train.
    """
    if not groups:
        raise InvalidInput("there is nothing to train: every parameter is frozen.")
    name, rate, given = settings.optimiser, settings.learning_rate, dict(settings.optimiser_settings)
    try:
        if name in _PLAIN:
            made, usual = _PLAIN[name]
            return made(groups, **{"lr": rate, "weight_decay": 0.0, **usual, **given})
        return _of_timm(name, groups, rate, given)
    except TypeError as error:
        raise InvalidInput(f"optimiser_settings {given} do not fit {name}: {error}.") from error


_PLAIN: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {}),
    "adam": (torch.optim.Adam, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
}


def _of_timm(
    name: str, groups: list[dict[str, Any]], rate: float, given: dict[str, Any]
) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    try:
        made: torch.optim.Optimizer = create_optimizer_v2(
            groups, opt=name, lr=rate, weight_decay=0.0, **given
        )
    except (ValueError, AssertionError) as error:
        raise InvalidInput(
            f"optimiser {name!r} is unknown: choose adamw, adam, sgd, or one of timm's ({error})."
        ) from error
    return made
