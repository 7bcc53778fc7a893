"""Learning rate and weight decay of a step, as pure functions; curves that objectives share are in `annealing`."""

from __future__ import annotations

import math
from typing import Literal

from fewsight.errors import InvalidInput
from fewsight.objectives.annealing import cosine
from fewsight.training.settings import TrainingSettings

__all__ = ["cosine", "learning_rate", "scaled_rate", "staircase", "weight_decay"]


def staircase(start: float, factor: float, every: int, step: int) -> float:
    """`start` times `factor` after each `every` steps.

    >>> staircase(1.0, 0.5, 10, 25)
    0.25
    """
    return start * factor ** (step // every)


def scaled_rate(
    rate: float, images: int, *, reference: int = 256, rule: Literal["linear", "sqrt"] = "linear"
) -> float:
    """The learning rate for `images` in an optimiser step, from one that is stated for `reference` of them.

    `linear` is rate * images / reference (Goyal et al. 2017; DINO, iBOT, MoCo-v3, SimCLR, MAE: 256); `sqrt` its root
    (DINOv2: reference 1,024).

    Raises:
        InvalidInput: a number of images is below 1, or the rule is unknown.

    >>> scaled_rate(0.0005, 1024)
    0.002
    """
    if images < 1 or reference < 1:
        raise InvalidInput(
            f"images is {images} and reference {reference}; expected at least 1 image in a step."
        )
    if rule not in ("linear", "sqrt"):
        raise InvalidInput(f"rule is {rule!r}; expected 'linear' or 'sqrt'.")
    ratio = images / reference
    return rate * (ratio if rule == "linear" else math.sqrt(ratio))


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """The rate of optimiser step `step`, counted from 0. The warm-up's first step already moves.

    >>> settings = TrainingSettings(steps=10, learning_rate=1.0, warmup_steps=2)
    >>> [round(learning_rate(settings, step), 3) for step in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.038]
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    after = step - settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    if settings.schedule == "staircase":
        return staircase(settings.learning_rate, settings.decay_factor, settings.decay_steps, after)
    length = max(1.0, settings.steps * settings.schedule_stretch - settings.warmup_steps)
    return cosine(settings.learning_rate, settings.final_learning_rate, after / length)


def weight_decay(settings: TrainingSettings, step: int) -> float:
    """The weight decay of optimiser step `step`."""
    if settings.final_weight_decay is None:
        return settings.weight_decay
    fraction = step / (settings.steps * settings.schedule_stretch)
    return cosine(settings.weight_decay, settings.final_weight_decay, fraction)
