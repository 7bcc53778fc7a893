"""Every average comes with an interval, every comparison is paired: `Interval`, `Comparison`.

Means over episodes: Student's t. Shares of right answers: Wilson's score interval (Wilson 1927), which is sound for
few photos and near 0 and 1. Rows that hang together (a burst, a folder): bootstrap over the groups. Two models on the
same photos: the adjusted interval of Bonett and Price (2012), which stays sound where few answers differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import ArrayLike, NDArray

from fewsight.errors import InvalidInput
from fewsight.seeding import numpy_generator

__all__ = [
    "Comparison",
    "Interval",
    "compare",
    "group_bootstrap",
    "mean_interval",
    "paired_interval",
    "proportion_interval",
    "share_interval",
    "worded_comparison",
]


@dataclass(frozen=True)
class Interval:
    """An average with its confidence interval.

    Attributes:
        mean: the average; NaN where there is nothing to average.
        low, high: ends of the interval; NaN where one value, or none, says nothing about the spread.
        n: how many values (episodes, photos or groups) it rests on.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2

    def percent(self) -> str:
        """As a person reads a share.

        >>> Interval(0.8, 0.7, 0.86, 25).percent()
        '80.0 % (70.0 to 86.0)'
        """
        if math.isnan(self.mean):
            return "not judged"
        ends = "" if math.isnan(self.low) else f" ({100 * self.low:.1f} to {100 * self.high:.1f})"
        return f"{100 * self.mean:.1f} %{ends}"


@dataclass(frozen=True)
class Comparison:
    """A paired difference, first minus second, with its interval and a sentence.

    Attributes:
        difference: over the pairs.
        first, second: the two averages.
        sentence: what the figures show, in words.
    """

    difference: Interval
    first: Interval
    second: Interval
    sentence: str

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.difference.low > 0 or self.difference.high < 0


def mean_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Mean of independent values with Student's t interval.

    Args:
        values: `[n]`, one for each episode, split or seed.
        confidence: in (0, 1).

    Raises:
        InvalidInput: a value is not finite, or confidence is out of range.

    >>> mean_interval([0.5, 0.7, 0.6]).n
    3
    """
    array = _values(values, "values")
    _check_confidence(confidence)
    n = len(array)
    if n < 2:
        return Interval(float(array.mean()) if n else math.nan, math.nan, math.nan, n)
    half = _student(confidence, n - 1) * float(array.std(ddof=1)) / math.sqrt(n)
    mean = float(array.mean())
    return Interval(mean, mean - half, mean + half, n)


def share_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """`mean_interval` of shares, its ends kept in [0, 1]: with two or three values Student's t reaches beyond.

    >>> share_interval([0.2, 0.9]).high
    1.0
    """
    found = mean_interval(values, confidence=confidence)
    if math.isnan(found.low):
        return found
    return Interval(found.mean, max(0.0, found.low), min(1.0, found.high), found.n)


def _student(confidence: float, degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + confidence) / 2))


def proportion_interval(successes: int, count: int, *, confidence: float = 0.95) -> Interval:
    """Share of independent successes with Wilson's score interval.

    Args:
        successes: from 0 to `count`.
        count: 0 gives NaN.
        confidence: in (0, 1).

    Raises:
        InvalidInput: the counts do not fit, or confidence is out of range.

    >>> interval = proportion_interval(10, 10)
    >>> interval.mean, round(interval.low, 3), interval.high
    (1.0, 0.722, 1.0)
    """
    _check_confidence(confidence)
    if not 0 <= successes <= count:
        raise InvalidInput(f"successes is {successes} of count {count}; expected 0 <= successes <= count.")
    if not count:
        return Interval(math.nan, math.nan, math.nan, 0)
    from scipy.special import ndtri

    z, share = float(ndtri((1 + confidence) / 2)), successes / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return Interval(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)), count)


def group_bootstrap(
    values: ArrayLike, groups: Sequence[object], *, confidence: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Mean of values that hang together in groups, with a percentile interval from drawing whole groups.

    Args:
        values: `[N]`.
        groups: `N` names; rows of one name are drawn together.
        confidence: in (0, 1).
        draws: bootstrap samples.
        seed: of the draws.

    Returns:
        `n` is the number of groups; no interval with one group.

    Raises:
        InvalidInput: lengths differ, a value is not finite, or a number is out of range.
    """
    array = _values(values, "values")
    _check_confidence(confidence)
    if len(groups) != len(array):
        raise InvalidInput(f"groups has {len(groups)} names for {len(array)} values.")
    if draws < 1:
        raise InvalidInput(f"draws is {draws}; expected at least 1.")
    place = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    index = numpy.array([place[name] for name in groups], dtype=int)
    count = len(place)
    if count < 2:
        return Interval(float(array.mean()) if count else math.nan, math.nan, math.nan, count)
    sums = numpy.bincount(index, weights=array, minlength=count)
    sizes = numpy.bincount(index, minlength=count)
    times = numpy_generator(seed, "group bootstrap").multinomial(count, [1 / count] * count, size=draws)
    means = (times @ sums) / (times @ sizes)
    low, high = numpy.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(array.mean()), float(low), float(high), count)


def paired_interval(
    differences: ArrayLike, groups: Sequence[object] | None = None, *, confidence: float = 0.95
) -> Interval:
    """Mean difference of two models on the same photos, with an interval that few differing answers cannot fool.

    Two pseudo-photos, one for each side, are added before spread and middle are taken (Bonett and Price, "Adjusted
    Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired Data", Journal of Educational and
    Behavioral Statistics 37, 2012). Photos of one group count as one: the spread is that of the groups' sums.

    Differs from the publication: Student's t with one degree less than there are photos or groups (published:
    normal), differences may be any number in [-1, 1].

    Args:
        differences: of each photo, `[N]`: right (1) or wrong (0) under one model minus that under the other, or
            means of such over several draws.
        groups: a name for each photo; photos of a name hang together.
        confidence: in (0, 1).

    Returns:
        `mean` is the plain mean; `n` the number of photos, or of groups where they are given; no interval with one.

    Raises:
        InvalidInput: a value is not finite or outside [-1, 1], lengths differ, or confidence is out of range.

    >>> found = paired_interval([1, 1, 1, 0, 0, 0, 0, 0, 0, -1])
    >>> round(found.mean, 2), round(found.low, 2), round(found.high, 2)
    (0.2, -0.28, 0.62)
    """
    array = _values(differences, "differences")
    _check_confidence(confidence)
    if len(array) and numpy.abs(array).max() > 1:
        raise InvalidInput("differences holds values outside [-1, 1]; expected differences of shares.")
    names = range(len(array)) if groups is None else groups
    if len(names) != len(array):
        raise InvalidInput(f"groups has {len(names)} names for {len(array)} differences.")
    place = {name: index for index, name in enumerate(dict.fromkeys(names))}
    count, mean = len(place), float(array.mean()) if len(array) else math.nan
    if count < 2:
        return Interval(mean, math.nan, math.nan, count)
    index = numpy.array([place[name] for name in names], dtype=int)
    padded = numpy.append(array, [1.0, -1.0])
    middle = float(padded.mean())
    sums = numpy.bincount(numpy.append(index, [count, count + 1]), weights=padded - middle)
    half = _student(confidence, count - 1) * math.sqrt(float(sums @ sums)) / len(padded)
    return Interval(mean, min(mean, max(-1.0, middle - half)), max(mean, min(1.0, middle + half)), count)


def compare(
    first: ArrayLike,
    second: ArrayLike,
    *,
    names: tuple[str, str] = ("the first", "the second"),
    confidence: float = 0.95,
    unit: str = "episodes",
) -> Comparison:
    """Paired comparison of two methods on the same episodes, by the differences of each pair.

    Args:
        first, second: `[n]` shares in [0, 1], the same episode at the same place.
        names: for the sentence.
        confidence: in (0, 1).
        unit: what the pairs are, for the sentence.

    Raises:
        InvalidInput: lengths differ, a value is not finite, or confidence is out of range.

    >>> compare([0.9, 0.8, 0.85], [0.7, 0.6, 0.66], names=("ours", "theirs")).sentence
    'ours is better than theirs by 19.7 points (95 % interval 18.2 to 21.1, 3 paired episodes).'
    """
    one, other = _values(first, "first"), _values(second, "second")
    if len(one) != len(other):
        raise InvalidInput(f"second has {len(other)} values for {len(one)} of first; pairs are needed.")
    difference = mean_interval(one - other, confidence=confidence)
    sentence = _sentence(difference, names, confidence, unit)
    return Comparison(
        difference,
        mean_interval(one, confidence=confidence),
        mean_interval(other, confidence=confidence),
        sentence,
    )


def worded_comparison(
    difference: Interval,
    first: Interval,
    second: Interval,
    *,
    names: tuple[str, str],
    confidence: float = 0.95,
    unit: str = "episodes",
) -> Comparison:
    """A comparison whose interval comes from elsewhere (a paired bootstrap of a ratio of sums), in words."""
    return Comparison(difference, first, second, _sentence(difference, names, confidence, unit))


def _sentence(difference: Interval, names: tuple[str, str], confidence: float, unit: str) -> str:
    if math.isnan(difference.low):
        return f"Not judged: {difference.n} paired {unit} say nothing about the spread."
    low, high, level = 100 * difference.low, 100 * difference.high, f"{100 * confidence:g} % interval"
    if difference.low > 0 or difference.high < 0:
        better, worse = names if difference.mean > 0 else names[::-1]
        ends = sorted((abs(low), abs(high)))
        return (
            f"{better} is better than {worse} by {100 * abs(difference.mean):.1f} points "
            f"({level} {ends[0]:.1f} to {ends[1]:.1f}, {difference.n} paired {unit})."
        )
    return (
        f"No difference shown between {names[0]} and {names[1]}: {100 * difference.mean:+.1f} points "
        f"({level} {low:+.1f} to {high:+.1f}, {difference.n} paired {unit})."
    )


def _values(values: ArrayLike, name: str) -> NDArray[numpy.float64]:
    array = numpy.asarray(values, dtype=numpy.float64)
    if array.ndim != 1:
        raise InvalidInput(f"{name} has shape {list(array.shape)}; expected one axis.")
    if not numpy.isfinite(array).all():
        raise InvalidInput(f"{name} holds NaN or infinity; expected finite numbers.")
    return array


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InvalidInput(f"confidence is {confidence}; expected a share in (0, 1).")
