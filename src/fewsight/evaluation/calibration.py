"""Scores that mean something: temperature, likelihood, calibration error, open-set measures.

Temperature scaling and calibration error as in Guo et al. 2017 (arXiv 1706.04599). The conformal functions live in
`evaluation.conformal` and go by this module's name, too. Letters: N rows, K classes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.evaluation.conformal import (
    ROUNDING,
    check_probabilities,
    check_rows,
    conformal_rank,
    conformal_sets,
    conformal_threshold,
    full_conformal_p_values,
    jackknife_plus_sets,
)
from fewsight.shapes import check_shapes

__all__ = [
    "auroc",
    "conformal_rank",
    "conformal_sets",
    "conformal_threshold",
    "expected_calibration_error",
    "fit_temperature",
    "fpr_at_tpr",
    "full_conformal_p_values",
    "jackknife_plus_sets",
    "negative_log_likelihood",
]


def fit_temperature(logits: Tensor, labels: Tensor, *, bounds: tuple[float, float] = (0.01, 100.0)) -> float:
    """The temperature T that makes softmax(logits / T) most likely (Guo et al. 2017, section 4.2).

    With b = 1 / T the mean of lse(b l) - b l_y is convex; its slope, the mean of sum_k softmax(b l)_k (l_k - l_y),
    is brought to zero by Newton steps inside a bracket.

    Args:
        logits: `[N, K]`; -inf where a class could not be scored. Rows whose true logit is -inf are left out.
        labels: column indices `[N]`.
        bounds: least and largest temperature. The least where every row is right, the largest where the logits
            know nothing.

    Raises:
        InvalidInput: shapes or ranges are wrong, a logit is NaN or +inf, or no row is left.

    >>> round(fit_temperature(torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 0, 1])), 4)
    2.8854
    """
    check_rows(logits, labels, "logits")
    low, high = bounds
    if not (0 < low <= high < math.inf):
        raise InvalidInput(f"bounds are {bounds}; expected 0 < least <= largest < infinity.")
    margins = _margins(logits, labels)
    if not len(margins):
        raise InvalidInput("logits has no row whose true class was scored; a temperature needs at least one.")
    # Where all signs agree they decide: the slope may be too small for floating point.
    if (margins >= 0).all():
        return float(high)
    if (margins <= 0).all() or _slope(margins, 1 / low)[0] <= 0:
        return float(low)
    if _slope(margins, 1 / high)[0] >= 0:
        return float(high)
    return 1 / _root(margins, 1 / high, 1 / low)


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """l_k - l_y in float64 without the rows that have no true logit; -inf stays."""
    logits = logits.detach().double()
    true = logits.gather(1, labels[:, None])
    scored = torch.isfinite(true[:, 0])
    return logits[scored] - true[scored]


def _slope(margins: Tensor, b: float) -> tuple[float, float]:
    """Slope and curvature of the mean negative log-likelihood at b = 1 / T."""
    weights = torch.softmax(b * margins, dim=1)
    finite = torch.where(weights > 0, margins, 0)
    mean = (weights * finite).sum(1)
    return mean.mean().item(), ((weights * finite.square()).sum(1) - mean.square()).mean().item()


def _root(margins: Tensor, low: float, high: float) -> float:
    b = math.sqrt(low * high)
    for _ in range(200):
        slope, curvature = _slope(margins, b)
        low, high = (b, high) if slope < 0 else (low, b)
        step = b - slope / curvature if curvature > 0 else math.nan
        following = step if low < step < high else math.sqrt(low * high)
        if abs(following - b) <= 1e-13 * b:
            return following
        b = following
    return b


def negative_log_likelihood(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """Mean of -log softmax(logits / temperature) at the true class, in nats; at least 0.

    Args:
        logits: `[N, K]`.
        labels: column indices `[N]`.
        temperature: positive.

    Raises:
        InvalidInput: shapes or ranges are wrong, or a logit is NaN or +inf.
    """
    check_rows(logits, labels, "logits")
    if not 0 < temperature < math.inf:
        raise InvalidInput(f"temperature is {temperature}; expected a positive finite number.")
    chosen = torch.log_softmax(logits.detach().double() / temperature, dim=1).gather(1, labels[:, None])
    return -chosen.mean().item()


def expected_calibration_error(
    probabilities: Tensor, labels: Tensor, *, bins: int = 15, scheme: Literal["width", "mass"] = "width"
) -> float:
    """Mean gap between confidence and accuracy of the best class, over bins of confidence (Guo et al. 2017, eq. 5).

    Args:
        probabilities: `[N, K]` in [0, 1].
        labels: column indices `[N]`.
        bins: number of bins.
        scheme: `width`: bins (k/B, (k+1)/B], the first with 0; `mass`: equally many rows in order of confidence,
            the first N mod B bins one more; equal confidences keep their order.

    Returns:
        In [0, 1]; NaN without rows. Biased upwards for few rows: pool episodes before calling it.

    Raises:
        InvalidInput: shapes or ranges are wrong.
    """
    check_rows(probabilities, labels, "probabilities")
    if bins < 1:
        raise InvalidInput(f"bins is {bins}; expected at least 1.")
    if scheme not in ("width", "mass"):
        raise InvalidInput(f"scheme is {scheme!r}; expected 'width' or 'mass'.")
    check_probabilities(probabilities, "probabilities")
    N = len(labels)
    confidence, predicted = probabilities.detach().max(1)
    gap = (predicted == labels).double() - confidence.double()  # [N]
    if scheme == "width":
        edges = (torch.arange(1, bins, dtype=torch.float64) / bins).to(confidence)
        place = torch.bucketize(confidence.contiguous(), edges)
    else:
        order = torch.argsort(confidence, stable=True)
        gap, sizes = gap[order], N // bins + (torch.arange(bins, device=gap.device) < N % bins).long()
        place = torch.repeat_interleave(sizes)
    sums = torch.zeros(bins, dtype=torch.float64, device=gap.device).index_add_(0, place, gap)
    return (sums.abs().sum() / N).item() if N else math.nan


def auroc(scores: Tensor, positives: Tensor) -> float:
    """Probability that a positive scores above a negative; equal scores count one half (Mann and Whitney).

    Args:
        scores: `[N]`, larger = more positive; infinities are legal.
        positives: bool `[N]`.

    Returns:
        In [0, 1]; NaN when one side is empty.

    Raises:
        InvalidInput: shapes or types are wrong, or a score is NaN.

    >>> auroc(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([False, True, False]))
    0.75
    """
    _check_two_sides(scores, positives)
    known, unknown = int(positives.sum()), int((~positives).sum())
    if not known or not unknown:
        return math.nan
    _, place, counts = torch.unique(scores.detach(), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0).double() - (counts - 1) / 2)[place]  # midranks, from 1
    return ((ranks[positives].sum().item() - known * (known + 1) / 2) / known) / unknown


def fpr_at_tpr(scores: Tensor, positives: Tensor, *, tpr: float = 0.95) -> float:
    """Share of negatives at or above the threshold that keeps a share `tpr` of the positives.

    The threshold is the ceil(tpr n)-th largest score of the n positives.

    Args:
        scores: `[N]`, larger = more positive.
        positives: bool `[N]`.
        tpr: in (0, 1].

    Returns:
        In [0, 1]; NaN when one side is empty.

    Raises:
        InvalidInput: shapes, types or ranges are wrong, or a score is NaN.
    """
    _check_two_sides(scores, positives)
    if not 0 < tpr <= 1:
        raise InvalidInput(f"tpr is {tpr}; expected a share in (0, 1].")
    known, unknown = scores.detach()[positives], scores.detach()[~positives]
    if not len(known) or not len(unknown):
        return math.nan
    rank = max(1, math.ceil(tpr * len(known) - ROUNDING))
    threshold = known.sort(descending=True).values[rank - 1]
    return (unknown >= threshold).double().mean().item()


def _check_two_sides(scores: Tensor, positives: Tensor) -> None:
    check_shapes(scores=(scores, "N"), positives=(positives, "N"))
    if positives.dtype != torch.bool:
        raise InvalidInput(f"positives has dtype {positives.dtype}; expected bool.")
    if scores.is_floating_point() and scores.isnan().any():
        raise InvalidInput("scores holds NaN; expected numbers.")
