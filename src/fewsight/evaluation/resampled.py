"""Figures of a whole test set (mean average precision, mean IoU), with intervals from drawing its photos again.

Such a figure is no mean over photos, so its spread comes from the bootstrap: the photos are drawn with replacement and
the figure is taken of each draw. Two models on the same photos and the same draws are compared by the differences of
each draw, which leaves out what a draw does to both.

The quantiles are taken about the draws' own mean, not about the figure: photos drawn twice raise average precision,
and photos left out shift rare classes, in every draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy
from numpy.typing import ArrayLike, NDArray

from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Comparison, Interval, worded_comparison

__all__ = ["Resampled", "compare_resampled"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Resampled:
    """A share in [0, 1] of a whole test set, and the same of each draw of its photos.

    Attributes:
        value: of the set itself.
        again: of each draw, `[R]`; NaN where a draw does not allow it.
        n: photos.
    """

    value: float
    again: NDArray[numpy.float64]
    n: int

    @property
    def interval(self) -> Interval:
        """The figure with its interval; no ends where fewer than two photos or no draw say something.

        >>> Resampled(0.5, numpy.array([0.5, 0.6, 0.7]), 9).interval.percent()
        '50.0 % (40.5 to 59.5)'
        """
        return _about(self.value, self.again, self.n, 0.0)


def compare_resampled(
    first: Resampled, second: Resampled, *, names: tuple[str, str], unit: str = "photos"
) -> Comparison:
    """Paired comparison of two models whose figures come from the same draws of the same photos.

    Raises:
        InvalidInput: the numbers of photos or of draws differ.

    >>> draws = numpy.array([0.5, 0.6, 0.7])
    >>> compare_resampled(Resampled(0.6, draws, 9), Resampled(0.5, draws - 0.1, 9), names=("a", "b")).sentence
    'a is better than b by 10.0 points (95 % interval 10.0 to 10.0, 9 paired photos).'
    """
    if first.n != second.n or len(first.again) != len(second.again):
        raise InvalidInput(
            f"second has {len(second.again)} draws of {second.n} photos, first {len(first.again)} of {first.n}; "
            "pairs are needed."
        )
    difference = _about(first.value - second.value, first.again - second.again, first.n, -1.0)
    return worded_comparison(
        difference, first.interval, second.interval, names=names, confidence=CONFIDENCE, unit=unit
    )


def _about(value: float, again: ArrayLike, n: int, least: float) -> Interval:
    draws = numpy.asarray(again, dtype=numpy.float64)
    known = draws[~numpy.isnan(draws)]
    if n < 2 or not len(known):
        return Interval(value, math.nan, math.nan, n)
    ends = numpy.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) - known.mean()
    low, high = (value + ends).clip(least, 1).tolist()
    return Interval(value, low, high, n)
