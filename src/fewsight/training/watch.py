"""Watching over a pretraining run: names a collapse while it happens, and can stop the run.

At each watch point the measures of `fewsight.training.watch_measures` are taken of the last batch, or for features of
held photos, which the augmentations do not disturb. A bad sign that stays for `patience` points is told once in plain
words. Two independent ones that stay together mean that the run has collapsed.

A watch point comes after fixed numbers of steps, so that all ranks reach it together: some measures need sums over
ranks. Nothing here changes a number of the run.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewsight.errors import CollapsedRun, InvalidInput
from fewsight.objectives.objective import Objective
from fewsight.progress import say
from fewsight.training.watch_measures import Finding, feature_measures, findings, target_measures

__all__ = ["Alarm", "CollapseWatch", "WatchSettings", "held_features"]

BATCH = 64  # held photos that are encoded at once


@dataclass(frozen=True)
class WatchSettings:
    """When a run is looked at.

    Attributes:
        every: steps between two watch points.
        after: share of the run before assignments and loss are judged: temperatures and learning rate warm up.
        patience: watch points for which a sign must stay.
        stop_on_collapse: raise `CollapsedRun` once the run has collapsed.
    """

    every: int = 50
    after: float = 0.1
    patience: int = 3
    stop_on_collapse: bool = False

    def __post_init__(self) -> None:
        if self.every < 1 or self.patience < 1 or not 0 <= self.after <= 1:
            raise InvalidInput(
                f"every is {self.every}, patience {self.patience} and after {self.after}; expected 1 or more, "
                "1 or more, and a share from 0 to 1."
            )


@dataclass(frozen=True)
class Alarm:
    """A sign that stayed: `kind` as in `Finding`, or `collapse` where two did; in words; and since which step."""

    kind: str
    step: int
    sentence: str


class CollapseWatch:
    """Give it to `train` as `on_step`.

    Args:
        steps: of the run.
        settings: when it is looked at.
        held: photos `[n, 3, H, W]` by the backbone's own transform, a few hundred; None = the last batch serves.

    Attributes:
        alarms: what was told so far.
        measures: of the last watch point, to be logged.
    """

    def __init__(
        self, steps: int, settings: WatchSettings = WatchSettings(), *, held: Tensor | None = None
    ) -> None:
        self.steps, self.settings, self.held = steps, settings, held
        self.alarms: list[Alarm] = []
        self.measures: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._lasting: dict[str, int] = {}
        self._together = 0
        self._rows: deque[tuple[Tensor, Tensor]] = deque()

    @property
    def collapsed(self) -> bool:
        """Whether two independent signs stayed together."""
        return any(alarm.kind == "collapse" for alarm in self.alarms)

    def __call__(self, objective: Objective, step: int) -> None:
        """Look at the run after optimiser step `step`, counted from 1.

        Raises:
            CollapsedRun: it has collapsed, and `stop_on_collapse` is set; earlier checkpoints stay.
        """
        if step % self.settings.every and step != 1:
            return
        watched = objective.watched()
        self.measures = {**self._of_targets(watched), **self._of_features(objective, watched)}
        self._first = self._first or dict(self.measures)
        warmed_up = step > self.settings.after * self.steps
        self._judge(findings(self.measures, self._first, warmed_up=warmed_up), step)

    def _of_targets(self, watched: Mapping[str, Tensor]) -> dict[str, float]:
        if "mean_assignment" not in watched:
            return target_measures(watched, None, None)
        mean, winners = watched["mean_assignment"].cpu(), watched["winners"].cpu()
        self._rows.append((mean * len(winners), winners))
        # No more rows than there are prototypes: a healthy teacher changes its mind over the run.
        while sum(len(kept) for _, kept in self._rows) - len(self._rows[0][1]) >= len(mean):
            self._rows.popleft()
        together = torch.cat([kept for _, kept in self._rows])
        total = torch.stack([part for part, _ in self._rows]).sum(0) / len(together)
        return target_measures(watched, total, together)

    def _of_features(self, objective: Objective, watched: Mapping[str, Tensor]) -> dict[str, float]:
        if self.held is not None:
            return feature_measures(held_features(objective.backbone(), self.held))
        return feature_measures(watched["features"]) if "features" in watched else {}

    def _judge(self, found: tuple[Finding, ...], step: int) -> None:
        kinds = {finding.kind for finding in found}
        self._lasting = {kind: self._lasting.get(kind, 0) + 1 for kind in kinds}
        self._together = self._together + 1 if len(kinds) > 1 else 0
        for finding in found:
            if self._lasting[finding.kind] == self.settings.patience:
                self._tell(Alarm(finding.kind, step, finding.sentence))
        if self._together >= self.settings.patience and not self.collapsed:
            text = "; ".join(finding.sentence for finding in found)
            self._tell(Alarm("collapse", step, f"the run has collapsed: {text}"))
            if self.settings.stop_on_collapse:
                raise CollapsedRun(
                    f"step {step}: the run has collapsed: {text}. It is stopped; the checkpoints from before stay. "
                    "Change the setting that is named and start anew."
                )

    def _tell(self, alarm: Alarm) -> None:
        if any(told.kind == alarm.kind for told in self.alarms):
            return
        self.alarms.append(alarm)
        say(f"Step {alarm.step} of {self.steps}: {alarm.sentence}.")

    def logged(self) -> dict[str, float]:
        """The measures of the last watch point that are finite numbers, for `metrics.jsonl`."""
        return {f"watch_{name}": value for name, value in self.measures.items() if math.isfinite(value)}


@torch.no_grad()
def held_features(backbone: nn.Module, held: Tensor) -> Tensor:
    """Vectors `[n, D]` of held photos in evaluation mode; the mode is put back."""
    training = backbone.training
    backbone.eval()
    try:
        device = next(backbone.parameters()).device
        parts = [backbone(part.to(device)).float().cpu() for part in held.split(BATCH)]
    finally:
        backbone.train(training)
    return torch.cat(parts) if parts else torch.zeros(0, getattr(backbone, "dim", 0))
