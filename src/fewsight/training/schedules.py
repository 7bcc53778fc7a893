"""Values that change over a run, as pure functions of the step."""

from __future__ import annotations

from fewsight.objectives.annealing import cosine
from fewsight.training.settings import TrainingSettings

__all__ = ["cosine", "learning_rate", "staircase", "weight_decay"]


def staircase(start: float, factor: float, every: int, step: int) -> float:
    """`start` times `factor` after each `every` steps.

    >>> staircase(1.0, 0.5, 10, 25)
    0.25
    """
    return start * factor ** (step // every)


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
    length = max(1, settings.steps - settings.warmup_steps)
    return cosine(settings.learning_rate, settings.final_learning_rate, after / length)


def weight_decay(settings: TrainingSettings, step: int) -> float:
    """The weight decay of optimiser step `step`."""
    if settings.final_weight_decay is None:
        return settings.weight_decay
    return cosine(settings.weight_decay, settings.final_weight_decay, step / settings.steps)
