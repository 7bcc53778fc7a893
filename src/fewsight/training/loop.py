"""The one training loop: every objective runs through it.

A step is a function of (settings, seed, step): batches come by their number, and whatever draws from torch's global
generator (dropout, drop path) finds it seeded by the step. So a killed run that resumes from its last checkpoint
gives the same weights, bit by bit on a processor, with any number of prefetching threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fewsight import distributed
from fewsight.objectives.objective import Objective
from fewsight.progress import Progress as ProgressBar
from fewsight.progress import say
from fewsight.training import schedules
from fewsight.training.batches import BatchSource, Prefetched
from fewsight.training.checkpoints import latest_checkpoint, read_checkpoint, write_checkpoint
from fewsight.training.interruption import Interruption
from fewsight.training.metrics_log import MetricsLog, SilentLog
from fewsight.training.run_state import RunState, start
from fewsight.training.settings import TrainingSettings
from fewsight.training.step import Clock, optimiser_step

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
    state = start(objective, settings)
    newest = latest_checkpoint(folder / "checkpoints")
    if newest is not None:
        state.load(read_checkpoint(newest))
        say(f"Going on from step {state.step} of {settings.steps}.")
    clock = Clock()
    losses: dict[str, float] = {}
    source = Prefetched(
        batches, state.step * settings.accumulation, settings.steps * settings.accumulation, settings.prefetch
    )
    with contextlib.ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        log = stack.enter_context(_log(folder, state.step, settings))
        bar = stack.enter_context(ProgressBar("training", settings.steps, unit="steps", done=state.step))
        iterator = iter(source)
        stack.callback(iterator.close)  # type: ignore[attr-defined]
        while state.step < settings.steps:
            losses = optimiser_step(state, iterator, settings, seed, folder, clock)
            if on_step is not None:
                on_step(objective, state.step)
            last = state.step == settings.steps
            if state.step % settings.log_every == 0 or last:
                waiting = clock.shares(source.waited)[0]
                bar.note = f"{100 * waiting:.0f} % of it waiting for data"
                rate = schedules.learning_rate(settings, state.step - 1)
                log.write(state.step - 1, {**losses, "learning_rate": rate, "waiting": round(waiting, 4)})
            if probe is not None and probe_every and (state.step % probe_every == 0 or last):
                log.write(state.step - 1, dict(_probed(state, probe)))
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
        state.average.copy_to(objective)
    return TrainingResult(state.step, True, losses, *clock.shares(source.waited))


def _log(folder: Path, step: int, settings: TrainingSettings) -> MetricsLog:
    if not distributed.is_main():
        return SilentLog()
    return MetricsLog(folder, from_step=step, tensorboard=settings.tensorboard)


def _probed(state: RunState, probe: Probe) -> Mapping[str, float]:
    """What the probe finds in the weights that will be kept: the average where there is one."""
    if state.average is None:
        return probe(state.objective, state.step)
    with state.average.in_place(state.objective):
        return probe(state.objective, state.step)


def _checkpoint(state: RunState, folder: Path, settings: TrainingSettings) -> None:
    held = state.as_dict()
    if distributed.is_main():
        write_checkpoint(folder / "checkpoints", state.step, held, keep=settings.keep)
    distributed.barrier()
