"""What `fewsight evaluate` finds: figures with intervals, comparisons, and both in words and in JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fewsight.evaluation.intervals import Comparison, Interval

__all__ = ["Evaluation", "Result"]


@dataclass(frozen=True)
class Result:
    """One figure: a measure of a data set at a way and shot, with its interval."""

    dataset: str
    way: int | None
    shot: int | None
    metric: str
    value: Interval

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        value = self.value
        return {
            "dataset": self.dataset,
            "way": self.way,
            "shot": self.shot,
            "metric": self.metric,
            "mean": _finite(value.mean),
            "low": _finite(value.low),
            "high": _finite(value.high),
            "n": value.n,
        }


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        protocol: its name.
        episodes: how many were run, or None.
        results: figures.
        comparisons: paired, by what was compared, where `against` was given.
        recalls: per-class recall at the largest shot.
        remarks: what was left out, in words.
    """

    protocol: str
    episodes: int | None
    results: tuple[Result, ...]
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    recalls: dict[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """As `interface.md` 3 says."""
        return {
            "protocol": self.protocol,
            "episodes": self.episodes,
            "results": [result.as_dict() for result in self.results],
            "comparison": [
                {
                    "of": what,
                    "difference": _finite(found.difference.mean),
                    "low": _finite(found.difference.low),
                    "high": _finite(found.difference.high),
                    "n": found.difference.n,
                    "sentence": found.sentence,
                }
                for what, found in self.comparisons.items()
            ]
            or None,
            "recalls": {name: _finite(value) for name, value in self.recalls.items()},
            "remarks": list(self.remarks),
        }

    def sentences(self) -> Iterator[str]:
        """The figures as lines."""
        yield from self.remarks
        for result in self.results:
            task = "" if result.way is None else f"{result.way}-way {result.shot}-shot "
            yield f"{result.dataset}: {task}{result.metric}: {result.value.percent()}, n = {result.value.n}"
        if self.recalls:
            hardest = sorted((value, name) for name, value in self.recalls.items() if value == value)[:5]
            yield (
                "Hardest classes: "
                + ", ".join(f"{name} {100 * value:.0f} %" for value, name in hardest)
                + "."
            )
        for what, found in self.comparisons.items():
            yield f"{what}: {found.sentence}"


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None
