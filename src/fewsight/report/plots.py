"""Numbers behind the drawings of a page: curves, bars, colours. Templates turn them into SVG."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy

from fewsight.predictions import Prediction
from fewsight.report.doubt import doubt
from fewsight.report.tables import correct

__all__ = ["Line", "Plot", "RiskCoverage", "RiskTally", "class_colour", "curve_path", "risk_coverage"]

# ten colours that differ in lightness too, and stand out on white and on near-black
_COLOURS = (
    "#3b82d6",
    "#e07b1f",
    "#2c9c6a",
    "#c4489c",
    "#8a9422",
    "#d04a4a",
    "#7e68d8",
    "#1a9cb5",
    "#a4704a",
    "#77879b",
)
# turning by the golden angle keeps neighbours in a long list apart
_GOLDEN_ANGLE = 137.508


def class_colour(index: int, count: int) -> str:
    """The colour of class `index` of `count`: a fixed one of ten, or a hue where there are more classes.

    >>> class_colour(0, 3), class_colour(1, 40)
    ('#3b82d6', 'hsl(138, 52%, 50%)')
    """
    if count <= len(_COLOURS):
        return _COLOURS[index]
    lightness = (50, 62, 42)[index % 3] if count > 20 else 50
    return f"hsl({(index * _GOLDEN_ANGLE) % 360:.0f}, 52%, {50 if index < 3 else lightness}%)"


@dataclass(frozen=True)
class Line:
    """A curve of a drawing: its name, colour, SVG path, and whether it is dashed."""

    name: str
    colour: str
    path: str
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """A drawing 480 wide and 200 high: caption, label of x, curves, ticks at shares of the axes with words."""

    caption: str
    label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class RiskCoverage:
    """How many answers are wrong among the surest.

    Attributes:
        coverage: shares of the answered photos, from the surest on, rising in (0, 1].
        risk: share of wrong answers among these, in [0, 1].
        answered: photos with an answer and a known truth.
        wrong: how many of them are wrong.
    """

    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    answered: int
    wrong: int

    def at(self, coverage: float) -> float:
        """The risk at the first point of the curve that covers at least this share."""
        return next(
            (risk for share, risk in zip(self.coverage, self.risk, strict=True) if share >= coverage - 1e-9),
            self.risk[-1],
        )


class RiskTally:
    """Doubt and rightness of every answer whose truth is known, with its class; 13 bytes a row."""

    def __init__(self) -> None:
        self._doubt, self._wrong, self._label = array("d"), bytearray(), array("i")
        self._labels: dict[str, int] = {}

    def add(self, row: Prediction) -> None:
        """The next row of the run."""
        is_right = correct(row)
        if is_right is not None:
            self._doubt.append(doubt(row))
            self._wrong.append(not is_right)
            self._label.append(self._labels.setdefault(str(row.label), len(self._labels)))

    def curve(self, *, label: str | None = None, points: int = 200) -> RiskCoverage | None:
        """The curve of all answers, or of those that are `label`; None where there are none."""
        doubts = numpy.array(self._doubt)
        wrong = numpy.frombuffer(bytes(self._wrong), dtype=numpy.uint8)
        if label is not None:
            chosen = numpy.array(self._label, dtype=numpy.int32) == self._labels.get(label, -1)
            doubts, wrong = doubts[chosen], wrong[chosen]
        return _curve(doubts, wrong, points)


def _curve(doubts: numpy.ndarray, wrong: numpy.ndarray, points: int) -> RiskCoverage | None:
    """Rows of equal doubt enter together, so that their order changes nothing. At most about `points` points."""
    count = len(doubts)
    if not count:
        return None
    order = numpy.argsort(doubts, kind="stable")
    ordered, so_far = doubts[order], numpy.cumsum(wrong[order], dtype=numpy.int64)
    ends = (
        numpy.flatnonzero(numpy.append(ordered[1:] != ordered[:-1], True)) + 1
    )  # rows up to each level of doubt
    coverage: list[float] = []
    risk: list[float] = []
    for end in ends.tolist():
        if end == count or end / count >= (len(coverage) + 1) / points:
            coverage.append(end / count)
            risk.append(int(so_far[end - 1]) / end)
    return RiskCoverage(tuple(coverage), tuple(risk), count, int(so_far[-1]))


def risk_coverage(rows: Iterable[Prediction], *, points: int = 200) -> RiskCoverage | None:
    """The curve of rows with answer and truth, ordered by doubt; None where there are none."""
    tally = RiskTally()
    for row in rows:
        tally.add(row)
    return tally.curve(points=points)


def curve_path(xs: Sequence[float], ys: Sequence[float], *, width: float, height: float, top: float) -> str:
    """An SVG path through (x, y): x in [0, 1] to `width`, y in [0, `top`] to `height`, y upwards.

    >>> curve_path([0, 1], [0, 0.5], width=100, height=50, top=1)
    'M0,50 L100,25'
    """
    steps = [f"{x * width:.4g},{height - y / top * height:.4g}" for x, y in zip(xs, ys, strict=True)]
    return "M" + " L".join(steps)
