"""One optimiser step: gradients of one batch or several, averaged over processes, clipped, applied."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewsight import distributed
from fewsight.objectives.objective import Batch, Objective, Progress
from fewsight.seeding import stream_seed
from fewsight.training import schedules
from fewsight.training.clipping import clip_gradients, gradient_norm
from fewsight.training.finite import check_finite
from fewsight.training.run_state import RunState
from fewsight.training.settings import TrainingSettings
from fewsight.training.sharding import is_sharded

__all__ = ["Clock", "on_device", "optimiser_step"]


class Clock:
    """Time in forward and backward, and in all."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.computing = 0.0

    @contextlib.contextmanager
    def compute(self) -> Iterator[None]:
        """Forward and backward pass within the block."""
        begun = time.perf_counter()
        yield
        self.computing += time.perf_counter() - begun

    def shares(self, waited: float) -> tuple[float, float]:
        """Share of the time spent waiting for data, and outside waiting, forward and backward."""
        total = max(time.perf_counter() - self.started, 1e-9)
        return waited / total, max(0.0, 1 - (waited + self.computing) / total)


def optimiser_step(
    state: RunState,
    batches: Iterator[Batch],
    settings: TrainingSettings,
    seed: int,
    folder: Path,
    clock: Clock,
) -> dict[str, float]:
    """Do step `state.step`; gives its losses by term, `loss` (their weighted sum) and `gradient_norm`.

    Raises:
        FewsightError: one of them is not finite.
    """
    objective, step = state.objective.train(), state.step
    state.optimiser.zero_grad(set_to_none=True)
    torch.manual_seed(stream_seed(seed, "step", step, distributed.rank()) >> 1)
    objective.before_step(Progress(step, settings.steps))
    _freeze_backbone(state.optimiser, step, settings)
    sums: dict[str, Tensor] = {}
    for _ in range(settings.accumulation):
        batch = on_device(next(batches), objective)
        random_state = torch.get_rng_state()
        with clock.compute(), _autocast(settings, objective):
            terms = objective.backward(batch, 1 / settings.accumulation)
        losses = {**terms.values, "loss": terms.total}
        check_finite(losses, batch, random_state, step, folder)
        for name, value in losses.items():
            sums[name] = (
                sums.get(name, torch.zeros(())) + value.detach().float().cpu() / settings.accumulation
            )
    distributed.average_gradients(p for p in state.parameters if not is_sharded(p))
    norm = gradient_norm(state.parameters)
    check_finite({"gradient norm": norm}, batch, random_state, step, folder)
    if settings.clip is not None:
        clip_gradients(state.parameters, settings.clip, settings.clipping)
    _set_rates(state.optimiser, settings, step)
    state.optimiser.step()
    if state.average is not None:
        state.average.update(objective, step)
    state.step += 1
    objective.after_step(Progress(state.step, settings.steps))
    return {name: float(value) for name, value in {**sums, "gradient_norm": norm}.items()}


def _freeze_backbone(optimiser: torch.optim.Optimizer, step: int, settings: TrainingSettings) -> None:
    if step > settings.backbone_frozen_steps or not settings.backbone_frozen_steps:
        return
    for group in optimiser.param_groups:
        if group["backbone"]:
            for parameter in group["params"]:
                parameter.requires_grad_(step >= settings.backbone_frozen_steps)


def on_device(batch: Batch, objective: Objective) -> Batch:
    """The batch where the parameters are."""
    device = next(objective.parameters()).device
    if device.type == "cpu":
        return batch

    def moved(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device, non_blocking=True)

    return replace(
        batch,
        images=tuple(image.to(device, non_blocking=True) for image in batch.images),
        features=None if batch.features is None else batch.features.map(lambda tensor: tensor.to(device)),
        labels=moved(batch.labels),
        masks=moved(batch.masks),
        roles=moved(batch.roles),
        index=moved(batch.index),
    )


def _autocast(settings: TrainingSettings, objective: Objective) -> Any:
    if settings.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(next(objective.parameters()).device.type, dtype=torch.bfloat16)


def _set_rates(optimiser: torch.optim.Optimizer, settings: TrainingSettings, step: int) -> None:
    rate, decay = schedules.learning_rate(settings, step), schedules.weight_decay(settings, step)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]
        group["weight_decay"] = decay * group["decays"]
