"""The one training loop: every objective runs through it.

A step is a function of (settings, seed, step): batches come by their number, and whatever draws from torch's global
generator (dropout, drop path) finds it seeded by the step. So a killed run that resumes from its last checkpoint
gives the same weights, bit by bit on a processor, with any number of prefetching threads.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewsight import distributed
from fewsight.errors import FewsightError
from fewsight.files import new_file
from fewsight.objectives.objective import Batch, Objective, Progress
from fewsight.progress import Progress as ProgressBar
from fewsight.progress import say
from fewsight.seeding import stream_seed
from fewsight.training import schedules
from fewsight.training.averaging import WeightAverage
from fewsight.training.batches import BatchSource, Prefetched
from fewsight.training.checkpoints import latest_checkpoint, read_checkpoint, write_checkpoint
from fewsight.training.interruption import Interruption
from fewsight.training.metrics_log import MetricsLog
from fewsight.training.optimisers import make_optimiser
from fewsight.training.parameter_groups import parameter_groups
from fewsight.training.settings import TrainingSettings

__all__ = ["Probe", "TrainingResult", "train"]

Probe = Callable[[Objective, int], Mapping[str, float]]


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        steps: optimiser steps that are done.
        finished: False if it was interrupted; resume to go on.
        losses: the last step's terms.
        waiting: share of the time spent waiting for data, in [0, 1].
        overhead: share of the time outside forward, backward and waiting, in [0, 1].
    """

    steps: int
    finished: bool
    losses: dict[str, float] = field(default_factory=dict)
    waiting: float = 0.0
    overhead: float = 0.0


@dataclass
class _State:
    """All that a checkpoint must hold."""

    objective: Objective
    optimiser: torch.optim.Optimizer
    average: WeightAverage | None
    step: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": None if self.average is None else self.average.tensors,
        }

    def load(self, held: dict[str, Any]) -> None:
        self.objective.load_state_dict(held["objective"])
        self.optimiser.load_state_dict(held["optimiser"])
        if self.average is not None and held["average"] is not None:
            self.average.tensors = held["average"]
        self.step = int(held["step"])


def train(
    objective: Objective,
    batches: BatchSource,
    settings: TrainingSettings,
    folder: Path,
    *,
    seed: int = 0,
    probe: Probe | None = None,
    probe_every: int = 0,
    on_step: Callable[[Objective, int], None] | None = None,
) -> TrainingResult:
    """Train `objective` for `settings.steps` optimiser steps, resuming from `folder` if it holds a checkpoint.

    Args:
        batches: number of a batch -> batch; called from threads. With accumulation a, step s uses the batches
            a * s .. a * s + a - 1.
        folder: `checkpoints/` and `metrics.jsonl` are written there.
        probe: called every `probe_every` steps and at the end with (objective, steps done); its scalars are logged.
        on_step: called after each step; may raise to stop the run (collapse alarms).

    Raises:
        FewsightError: a loss or gradient is not finite (the batch is saved beside the checkpoints), or the disk
            refuses a checkpoint; the earlier one stays intact.
    """
    state = _prepare(objective, settings)
    newest = latest_checkpoint(folder / "checkpoints")
    if newest is not None:
        state.load(read_checkpoint(newest))
        say(f"Going on from step {state.step} of {settings.steps}.")
    clock = _Clock()
    losses: dict[str, float] = {}
    source = Prefetched(
        batches, state.step * settings.accumulation, settings.steps * settings.accumulation, settings.prefetch
    )
    with contextlib.ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        log = stack.enter_context(MetricsLog(folder, from_step=state.step)) if distributed.is_main() else None
        bar = stack.enter_context(ProgressBar("training", settings.steps, unit="steps", done=state.step))
        iterator = iter(source)
        stack.callback(iterator.close)  # type: ignore[attr-defined]
        while state.step < settings.steps:
            losses = _step(state, iterator, settings, seed, folder, clock)
            if on_step is not None:
                on_step(objective, state.step)
            last = state.step == settings.steps
            if log is not None and (state.step % settings.log_every == 0 or last):
                log.write(
                    state.step - 1,
                    {**losses, "learning_rate": schedules.learning_rate(settings, state.step - 1)},
                )
            if probe is not None and probe_every and (state.step % probe_every == 0 or last):
                measured = probe(objective, state.step)
                if log is not None:
                    log.write(state.step - 1, dict(measured))
            stop = interruption.wanted()
            if state.step % settings.checkpoint_every == 0 or last or stop:
                _checkpoint(state, folder, settings)
            bar.advance()
            if stop and not last:
                say(
                    f"Stopped at step {state.step}; a checkpoint is written. Run again with --resume to go on."
                )
                return TrainingResult(state.step, False, losses, *clock.shares(source.waited))
    if state.average is not None:
        objective.load_state_dict(state.average.tensors)
    return TrainingResult(state.step, True, losses, *clock.shares(source.waited))


class _Clock:
    """Time in forward and backward, and in all."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.computing = 0.0

    @contextlib.contextmanager
    def compute(self) -> Any:
        begun = time.perf_counter()
        yield
        self.computing += time.perf_counter() - begun

    def shares(self, waited: float) -> tuple[float, float]:
        total = max(time.perf_counter() - self.started, 1e-9)
        return waited / total, max(0.0, 1 - (waited + self.computing) / total)


def _prepare(objective: Objective, settings: TrainingSettings) -> _State:
    optimiser = make_optimiser(parameter_groups(objective, settings), settings)
    average = None if settings.ema is None else WeightAverage(objective, settings.ema)
    if settings.compile:
        objective.trained_backbone().compile()
    return _State(objective, optimiser, average)


def _step(
    state: _State, batches: Any, settings: TrainingSettings, seed: int, folder: Path, clock: _Clock
) -> dict[str, float]:
    objective = state.objective.train()
    state.optimiser.zero_grad(set_to_none=True)
    torch.manual_seed(stream_seed(seed, "step", state.step, distributed.rank()) >> 1)
    sums: dict[str, Tensor] = {}
    objective.before_step(Progress(state.step, settings.steps))
    for _ in range(settings.accumulation):
        batch = next(batches)
        with clock.compute(), _autocast(settings, objective):
            terms = objective.backward(batch, 1 / settings.accumulation)
        _check_finite({**terms.values, "loss": terms.total}, batch, state.step, folder)
        for name, value in {**terms.values, "loss": terms.total}.items():
            sums[name] = (
                sums.get(name, torch.zeros(())) + value.detach().float().cpu() / settings.accumulation
            )
    parameters = [parameter for group in state.optimiser.param_groups for parameter in group["params"]]
    distributed.average_gradients(parameters)
    if settings.clip is not None:
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        _check_finite({"gradient norm": norm}, batch, state.step, folder)
    _set_rates(state.optimiser, settings, state.step)
    state.optimiser.step()
    if state.average is not None:
        state.average.update(objective, state.step)
    state.step += 1
    objective.after_step(Progress(state.step, settings.steps))
    return {name: float(value) for name, value in sums.items()}


def _autocast(settings: TrainingSettings, objective: Objective) -> Any:
    if settings.precision == "fp32":
        return contextlib.nullcontext()
    device = next(objective.parameters()).device.type
    return torch.autocast(device, dtype=torch.bfloat16)


def _set_rates(optimiser: torch.optim.Optimizer, settings: TrainingSettings, step: int) -> None:
    rate, decay = schedules.learning_rate(settings, step), schedules.weight_decay(settings, step)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]
        group["weight_decay"] = decay * group["decays"]


def _check_finite(values: Mapping[str, Tensor], batch: Batch, step: int, folder: Path) -> None:
    for name, value in values.items():
        if not torch.isfinite(value).all():
            path = folder / "nan_capture.pt"
            with new_file(path) as file:
                torch.save(
                    {
                        "step": step,
                        "images": list(batch.images),
                        "labels": batch.labels,
                        "index": batch.index,
                    },
                    file,
                )
            raise FewsightError(
                f"step {step}: {name} is {float(value)}. The batch is saved in {path}; no checkpoint holds this step. "
                "Lower the learning rate, lengthen the warm-up or set clip, and resume."
            )


def _checkpoint(state: _State, folder: Path, settings: TrainingSettings) -> None:
    if distributed.is_main():
        write_checkpoint(folder / "checkpoints", state.step, state.as_dict(), keep=settings.keep)
    distributed.barrier()
