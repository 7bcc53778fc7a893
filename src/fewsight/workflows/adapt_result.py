"""What `fewsight adapt` gave: which weights were kept and why, the verdicts, the result in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fewsight.evaluation.intervals import Interval
from fewsight.protocols.verdict import Verdict
from fewsight.training.loop import TrainingResult

__all__ = ["AdaptRun"]


@dataclass(frozen=True)
class AdaptRun:
    """What a run of `adapt` gave.

    Attributes:
        folder: with `model/`, `report.html`, `verdict.json`, `metrics.jsonl` and `run.yaml`.
        result: of the loop of stage 1.
        step: whose weights were kept.
        stopping: accuracy of these on the photos that chose the step; None where nothing chose.
        verdict: prototypes before and after, on photos that the training did not see; None if interrupted.
        head_verdict: the same with the head of stage 2.
        kept: `adapted` or `old`: which backbone is in `model/`.
        photos: how many were trained on, chose the step, and were judged.
        remarks: sentences that a person should read.
    """

    folder: Path
    result: TrainingResult
    step: int
    stopping: Interval | None
    verdict: Verdict | None
    head_verdict: Verdict | None
    kept: Literal["adapted", "old"]
    photos: tuple[int, int, int]
    remarks: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json` and `verdict.json`."""
        return {
            "folder": str(self.folder),
            "finished": self.result.finished,
            "steps": self.result.steps,
            "kept_step": self.step,
            "photos": dict(zip(("trained_on", "stopping", "judged"), self.photos, strict=True)),
            "verdict": None if self.verdict is None else self.verdict.as_values(),
            "stage2": None if self.head_verdict is None else self.head_verdict.as_values(),
            "kept": self.kept if self.result.finished else None,
            "remarks": list(self.remarks),
        }

    def sentences(self) -> Iterator[str]:
        """The result in words."""
        yield from self.remarks
        if self.verdict is None:
            yield f"Interrupted at step {self.result.steps}. Go on with the same command and --resume."
            return
        yield (
            f"Trained for {self.result.steps} steps on {self.photos[0]} photos"
            + (f", kept step {self.step}." if self.stopping is not None else ".")
        )
        yield self.verdict.sentence
        if self.head_verdict is not None and self.head_verdict.outcome != "not judged":
            yield f"With the head of stage 2: {_lower(self.head_verdict.sentence)}"
        yield self.kept_sentence()
        yield f"Use it: fewsight predict SUPPORT PILE --backbone {self.folder / 'model'} --out RUN"
        yield f"Report: {self.folder / 'report.html'}"

    def kept_sentence(self) -> str:
        """Which backbone lies where."""
        model, other = self.folder / "model", self.folder / "adapted"
        if self.kept == "adapted":
            assert self.verdict is not None
            doubt = "" if self.verdict.improved else ", as asked, though it was not shown to be better"
            return f"{model} holds the adapted backbone{doubt}."
        return (
            f"{model} holds the old backbone; the adapted one is in {other}, should you want it all the same."
        )


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
