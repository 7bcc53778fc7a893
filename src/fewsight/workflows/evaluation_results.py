"""What `fewsight evaluate` finds: figures with intervals, comparisons, and both in words and in JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy
from numpy.typing import NDArray

from fewsight.evaluation.intervals import Comparison, Interval

__all__ = ["Confusion", "Evaluation", "Result"]

LARGEST_MATRIX = 200  # classes up to which the whole confusion matrix stands in the JSON
WORST = 3  # pairs of classes in words


@dataclass(frozen=True)
class Result:
    """One figure: a measure of a data set at a way and shot, with its interval; of what is judged, or of its rival."""

    dataset: str
    way: int | None
    shot: int | None
    metric: str
    value: Interval
    of_rival: bool = False

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
class Confusion:
    """What was answered for what.

    Attributes:
        classes: names of the K classes.
        counts: answers by class (rows: true), int64 [K, K].
        together: queries of a class (row) that could have been answered by the other (column), int64 [K, K].
    """

    classes: tuple[str, ...]
    counts: NDArray[numpy.int64]
    together: NDArray[numpy.int64]

    def worst(self, number: int) -> list[tuple[str, str, float]]:
        """(true, answered, share of the questions where both were there) of the most confused pairs."""
        shares = self.counts / numpy.maximum(self.together, 1)
        numpy.fill_diagonal(shares, 0)
        order = numpy.argsort(-shares, axis=None, kind="stable")[:number]
        pairs = (divmod(int(place), len(self.classes)) for place in order)
        return [
            (self.classes[true], self.classes[told], float(shares[true, told]))
            for true, told in pairs
            if shares[true, told] > 0
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `--json`; the matrix only up to `LARGEST_MATRIX` classes."""
        worst = [
            {"true": true, "answered": told, "share": share} for true, told, share in self.worst(10 * WORST)
        ]
        if len(self.classes) > LARGEST_MATRIX:
            return {"worst": worst}
        return {"classes": list(self.classes), "counts": self.counts.tolist(), "worst": worst}


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
        confusion: at the largest shot, or None.
        conclusions: what follows from the figures, in sentences.
        table: the figures beside published ones, as lines of text.
        published: the same for programs, or None.
    """

    protocol: str
    episodes: int | None
    results: tuple[Result, ...]
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    recalls: dict[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    confusion: Confusion | None = None
    conclusions: tuple[str, ...] = ()
    table: tuple[str, ...] = ()
    published: Any = None

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
            "confusion": None if self.confusion is None else self.confusion.as_dict(),
            "published": self.published,
            "conclusions": list(self.conclusions),
            "remarks": list(self.remarks),
        }

    def sentences(self) -> Iterator[str]:
        """The figures as lines."""
        yield from self.remarks
        for result in self.results:
            task = "" if result.way is None else f"{result.way}-way {result.shot}-shot "
            yield f"{result.dataset}: {task}{result.metric}: {result.value.percent()}, n = {result.value.n}"
        yield from self.table
        yield from self._of_classes()
        for what, found in self.comparisons.items():
            yield f"{what}: {found.sentence}"
        yield from self.conclusions

    def _of_classes(self) -> Iterator[str]:
        hardest = sorted((value, name) for name, value in self.recalls.items() if value == value)[:5]
        if hardest:
            yield f"Hardest classes: {', '.join(f'{name} {100 * value:.0f} %' for value, name in hardest)}."
        pairs = [] if self.confusion is None else self.confusion.worst(WORST)
        if pairs:
            worst = ", ".join(f"{true} for {told} {100 * share:.0f} %" for true, told, share in pairs)
            yield f"Most often taken for another, where both are there: {worst}."


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None
