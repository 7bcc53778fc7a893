"""What `fewsight predict` gave: the run's folder, its rows, the accuracy to expect, the result in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewsight.data.reading import photos_of
from fewsight.evaluation.intervals import Interval
from fewsight.workflows.prediction_files import StoredPredictions

__all__ = ["PredictionRun"]


@dataclass(frozen=True)
class PredictionRun:
    """What a run of `predict` gave.

    Attributes:
        folder: with `predictions.csv`, `predictions.jsonl`, `report.html`, `model/` and `run.yaml`.
        rows: one `Prediction` for each photo, read from the disk when asked for.
        counts: photos by status.
        expected: accuracy to expect, from the support alone; NaN where it could not be judged.
        accuracy: on photos whose truth is known, else None.
        remarks: sentences that a person should read.
        next_steps: commands.
    """

    folder: Path
    rows: StoredPredictions
    counts: dict[str, int]
    expected: Interval
    expected_sentence: str
    accuracy: Interval | None = None
    remarks: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()

    def with_next_steps(self, *steps: str) -> PredictionRun:
        """The same with other next steps."""
        return replace(self, next_steps=steps)

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "folder": str(self.folder),
            "photos": len(self.rows),
            "status": self.counts,
            "expected_accuracy": _plain(self.expected),
            "accuracy": None if self.accuracy is None else _plain(self.accuracy),
            "remarks": list(self.remarks),
        }

    def sentences(self) -> Iterator[str]:
        """The result in words."""
        told = ", ".join(f"{count} {status}" for status, count in self.counts.items() if count)
        yield f"{photos_of(len(self.rows))}: {told or 'none'}."
        if self.accuracy is not None:
            known = photos_of(self.accuracy.n)
            yield f"Right, of {known} with an answer whose class is known: {self.accuracy.percent()}."
        yield from self.remarks
        yield f"Report: {self.folder / 'report.html'}"
        yield from self.next_steps


def _plain(interval: Interval) -> dict[str, float | int | None]:
    values = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {name: None if value != value else value for name, value in values.items()} | {"n": interval.n}
