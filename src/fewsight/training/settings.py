"""How a run is optimised: one flat frozen dataclass for every objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fewsight.errors import InvalidInput

__all__ = ["TrainingSettings"]


@dataclass(frozen=True)
class TrainingSettings:
    """Optimiser, schedules and housekeeping of a run; everything is counted in optimiser steps.

    Attributes:
        steps: length of the run.
        learning_rate: at the end of the warm-up.
        final_learning_rate: at the end of a cosine.
        warmup_steps: linear from 0.
        schedule: `cosine`, `constant`, or `staircase` (times `decay_factor` every `decay_steps`).
        optimiser: a name that timm's factory knows: `adamw`, `adam`, `sgd`, `lars`, `lamb`, ...
        weight_decay: of matrices; vectors (biases, norms) have none.
        final_weight_decay: end of a cosine from `weight_decay`; None = constant.
        layer_decay: rate of a block = rate * layer_decay ** (blocks above it); 1 = the same for all.
        backbone_rate: factor on the rate of the backbone's parameters; 0 freezes it.
        clip: largest global norm of the gradient; None = no clipping.
        accumulation: batches whose gradients are averaged in one step.
        precision: `fp32`, or `bf16` autocast (losses stay in float32).
        ema: decay of an average of all weights that is kept instead of the last ones; None = none.
        checkpoint_every, keep: steps between checkpoints, and how many are kept.
        log_every: steps between two lines of `metrics.jsonl`.
        prefetch: batches that are made ahead by as many threads; changes no number.
        compile: `torch.compile` the backbone.
    """

    steps: int
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.0
    warmup_steps: int = 0
    schedule: Literal["cosine", "constant", "staircase"] = "cosine"
    decay_steps: int = 2000
    decay_factor: float = 0.5
    optimiser: str = "adamw"
    weight_decay: float = 0.0
    final_weight_decay: float | None = None
    layer_decay: float = 1.0
    backbone_rate: float = 1.0
    clip: float | None = None
    accumulation: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    ema: float | None = None
    checkpoint_every: int = 500
    keep: int = 2
    log_every: int = 10
    prefetch: int = 1
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation", "checkpoint_every", "keep", "log_every", "decay_steps"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; expected at least 1.")
        for name in (
            "learning_rate",
            "final_learning_rate",
            "weight_decay",
            "backbone_rate",
            "warmup_steps",
            "prefetch",
        ):
            if getattr(self, name) < 0:
                raise InvalidInput(f"{name} is {getattr(self, name)}; expected 0 or more.")
        if not 0 < self.layer_decay <= 1:
            raise InvalidInput(f"layer_decay is {self.layer_decay}; expected a value in (0, 1].")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise InvalidInput(f"ema is {self.ema}; expected a value in [0, 1).")
