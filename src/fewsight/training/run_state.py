"""All that a checkpoint must hold: step, weights, moments of the optimiser, average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fewsight.objectives.objective import Objective
from fewsight.training.averaging import WeightAverage
from fewsight.training.blocks import compute_blocks
from fewsight.training.optimisers import make_optimiser
from fewsight.training.parameter_groups import parameter_groups
from fewsight.training.recompute import recompute_blocks
from fewsight.training.settings import TrainingSettings
from fewsight.training.sharding import full_state, like, load_full, shard

__all__ = ["RunState", "start"]


@dataclass
class RunState:
    """An objective on its way.

    Attributes:
        step: optimiser steps that are done.
    """

    objective: Objective
    optimiser: torch.optim.Optimizer
    average: WeightAverage | None
    step: int = 0

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What the optimiser moves."""
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values and whole tensors; a collective call where the backbone is sharded."""
        held: dict[str, Any] = full_state(
            {
                "step": self.step,
                "objective": dict(self.objective.state_dict()),
                "optimiser": self.optimiser.state_dict(),
                "average": None if self.average is None else self.average.tensors,
            }
        )
        return held

    def load(self, held: dict[str, Any]) -> None:
        """The inverse of `as_dict`."""
        load_full(self.objective, held["objective"])
        moments = held["optimiser"]["state"]
        for number, parameter in enumerate(self.parameters):
            if number in moments:
                moments[number] = {
                    name: like(value, parameter) if isinstance(value, torch.Tensor) else value
                    for name, value in moments[number].items()
                }
        self.optimiser.load_state_dict(held["optimiser"])
        if self.average is not None and held["average"] is not None:
            self.average.load(held["average"])
        self.step = int(held["step"])


def start(objective: Objective, settings: TrainingSettings) -> RunState:
    """A run at step 0: the network sharded, recomputed and compiled as the settings say.

    Raises:
        InvalidInput: nothing is left to train, or the settings do not fit the objective.
    """
    backbone = objective.trained_backbone()
    if settings.recompute:
        recompute_blocks(compute_blocks(backbone))
    if settings.sharding == "fsdp":
        shard(objective)
    optimiser = make_optimiser(parameter_groups(objective, settings), settings)
    average = None if settings.ema is None else WeightAverage(objective, settings.ema)
    if settings.compile:
        for block in compute_blocks(backbone):
            block.compile()
    return RunState(objective, optimiser, average)
