"""How a run is optimised: one flat frozen dataclass for every objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fewsight.errors import InvalidInput

__all__ = ["HOUSEKEEPING", "TrainingSettings"]

HOUSEKEEPING = frozenset({"checkpoint_every", "keep", "log_every", "prefetch", "tensorboard"})
"""Settings that change no number of a run: a run may be resumed with others."""


@dataclass(frozen=True)
class TrainingSettings:
    """Optimiser, schedules and housekeeping of a run; everything is counted in optimiser steps.

    Attributes:
        steps: length of the run.
        learning_rate: at the end of the warm-up.
        final_learning_rate: at the end of a cosine.
        warmup_steps: linear from 0.
        schedule: `cosine`, `constant`, or `staircase` (times `decay_factor` every `decay_steps`).
        schedule_stretch: cosines run over this many times the run and are cut off at its end (MSN: 1.25).
        optimiser: `adamw`, `adam`, `sgd`, or a name that timm's factory knows: `lars`, `larc`, `lamb`, ...
        optimiser_settings: arguments of the optimiser, as {betas: [0.9, 0.95], eps: 1e-7}.
        weight_decay: of matrices; vectors (biases, norms) have none, unless `decay_vectors` (MoCo-v3).
        final_weight_decay: end of a cosine from `weight_decay`; None = constant.
        layer_decay: rate of a block = rate * layer_decay ** (blocks above it); 1 = the same for all.
        backbone_rate: factor on the rate of the backbone's parameters; 0 freezes it.
        backbone_frozen_steps: steps at the start in which the backbone stays as it is, while heads warm up.
        rate_factors: parameter names with `*` -> a further factor on their rate; 0 freezes them.
        clip: largest norm of the gradient; None = no clipping.
        clipping: `global`: of all parameters together; `parameter`: of each by itself (DINO); `normalise`: the
            global norm is made `clip`, whether it was above or below (CrossTransformers).
        accumulation: batches whose gradients are averaged in one step.
        precision: `fp32`, or `bf16` autocast (losses stay in float32).
        ema: decay of an average of the trained weights that is kept instead of the last ones; None = none.
        recompute: keep no activations inside the backbone's blocks, compute them again in the backward pass.
        compile: `torch.compile` the backbone's blocks.
        sharding: `none`, or `fsdp`: the backbone's parameters, gradients and moments lie in parts on the processes.
        checkpoint_every, keep: steps between checkpoints, and how many are kept.
        log_every: steps between two lines of `metrics.jsonl`.
        prefetch: batches that are made ahead by as many threads; changes no number.
        tensorboard: write TensorBoard's event files too.
    """

    steps: int
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.0
    warmup_steps: int = 0
    schedule: Literal["cosine", "constant", "staircase"] = "cosine"
    schedule_stretch: float = 1.0
    decay_steps: int = 2000
    decay_factor: float = 0.5
    optimiser: str = "adamw"
    optimiser_settings: Mapping[str, Any] = field(default_factory=dict)
    weight_decay: float = 0.0
    final_weight_decay: float | None = None
    decay_vectors: bool = False
    layer_decay: float = 1.0
    backbone_rate: float = 1.0
    backbone_frozen_steps: int = 0
    rate_factors: Mapping[str, float] = field(default_factory=dict)
    clip: float | None = None
    clipping: Literal["global", "parameter", "normalise"] = "global"
    accumulation: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    ema: float | None = None
    recompute: bool = False
    compile: bool = False
    sharding: Literal["none", "fsdp"] = "none"
    checkpoint_every: int = 500
    keep: int = 2
    log_every: int = 10
    prefetch: int = 1
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation", "checkpoint_every", "keep", "log_every", "decay_steps"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; expected at least 1.")
        for name in (
            "learning_rate",
            "final_learning_rate",
            "weight_decay",
            "backbone_rate",
            "backbone_frozen_steps",
            "warmup_steps",
            "prefetch",
        ):
            if getattr(self, name) < 0:
                raise InvalidInput(f"{name} is {getattr(self, name)}; expected 0 or more.")
        if not 0 < self.layer_decay <= 1:
            raise InvalidInput(f"layer_decay is {self.layer_decay}; expected a value in (0, 1].")
        if self.schedule_stretch < 1:
            raise InvalidInput(f"schedule_stretch is {self.schedule_stretch}; expected at least 1.")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise InvalidInput(f"ema is {self.ema}; expected a value in [0, 1).")
        if self.clip is not None and not self.clip > 0:
            raise InvalidInput(f"clip is {self.clip}; expected a positive norm, or none.")
        if self.clip is None and self.clipping != "global":
            raise InvalidInput(
                f"clipping is {self.clipping!r} without a norm: give clip too, for example clip: 3.0."
            )
