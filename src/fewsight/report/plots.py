"""Numbers behind the drawings of a page: curves, bars, colours. Templates turn them into SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fewsight.predictions import Prediction
from fewsight.report.doubt import doubt
from fewsight.report.tables import correct

__all__ = ["RiskCoverage", "class_colour", "curve_path", "risk_coverage"]

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


def risk_coverage(rows: Sequence[Prediction], *, points: int = 200) -> RiskCoverage | None:
    """The curve of rows with answer and truth, ordered by doubt; None where there are none.

    Rows of equal doubt enter together, so that their order changes nothing. At most about `points` points.
    """
    judged = sorted((doubt(row), not is_right) for row in rows if (is_right := correct(row)) is not None)
    if not judged:
        return None
    coverage: list[float] = []
    risk: list[float] = []
    wrong = 0
    for index, (level, is_wrong) in enumerate(judged, start=1):
        wrong += is_wrong
        is_last = index == len(judged)
        if is_last or (judged[index][0] != level and index / len(judged) >= (len(coverage) + 1) / points):
            coverage.append(index / len(judged))
            risk.append(wrong / index)
    return RiskCoverage(tuple(coverage), tuple(risk), len(judged), wrong)


def curve_path(xs: Sequence[float], ys: Sequence[float], *, width: float, height: float, top: float) -> str:
    """An SVG path through (x, y): x in [0, 1] to `width`, y in [0, `top`] to `height`, y upwards.

    >>> curve_path([0, 1], [0, 0.5], width=100, height=50, top=1)
    'M0,50 L100,25'
    """
    steps = [f"{x * width:.4g},{height - y / top * height:.4g}" for x, y in zip(xs, ys, strict=True)]
    return "M" + " L".join(steps)
