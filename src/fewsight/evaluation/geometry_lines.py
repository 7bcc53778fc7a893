"""Lines to read measures of geometry against: collapsed classes, finite samples, and estimates without bias.

A measure alone says little: ten classes collapsed to a simplex have IsoScore 0.01 in 768 dimensions and yet average
cosine 0; fifty white rows of width 64 have IsoScore 0.42. These are the values to draw beside a measurement.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.evaluation.feature_sums import ClassSums, Scatter, check_features

__all__ = [
    "collapsed_simplex",
    "debiased_class_separation",
    "debiased_participation_ratio",
    "finite_sample_isoscore",
    "finite_sample_spread_of_cosine",
]


def collapsed_simplex(classes: int, per_class: int, dim: int) -> dict[str, float]:
    """Every measure where each class is one point and the points are as far apart as can be.

    Args:
        classes: K, at least 2 and at most dim + 1.
        per_class: rows of each class, at least 1.
        dim: width D, at least 2.

    >>> collapsed_simplex(10, 20, 768)["isoscore"]
    0.010430247718383311
    """
    K, n, D = classes, per_class, dim
    if K < 2 or n < 1 or D < 2 or K > D + 1:
        raise InvalidInput(
            f"{K} classes of {n} rows in {D} dimensions make no simplex; expected 2 to {D + 1} classes."
        )
    N = K * n
    away = math.exp(-4 * K / (K - 1))  # exp(-2 d^2) of two corners
    return {
        "average_cosine": -1 / (N - 1),
        "intra_class_cosine": 1.0 if n > 1 else math.nan,
        "inter_class_cosine": -1 / (K - 1),
        "participation_ratio": K - 1.0,
        "isoscore": (K - 2) / (D - 1),
        "effective_rank": K - 1.0,
        "class_separation": 1.0,
        "nc1": 0.0,
        "alignment": 0.0 if n > 1 else math.nan,
        "uniformity": math.log(((n - 1) + (K - 1) * n * away) / (N - 1)),
    }


def finite_sample_isoscore(rows: int, dim: int) -> float:
    """About what IsoScore gives for N white Gaussian rows of width D, though the space itself scores 1.

    >>> round(finite_sample_isoscore(50, 64), 3)
    0.421
    """
    if rows < 3 or dim < 2:
        raise InvalidInput(f"{rows} rows of width {dim}; expected at least 3 rows and 2 columns.")
    return (rows - 2) / (rows + dim)


def finite_sample_spread_of_cosine(rows: int, dim: int) -> float:
    """Standard deviation of the average cosine of N random directions in D dimensions; its mean is 0."""
    if rows < 2 or dim < 1:
        raise InvalidInput(f"{rows} rows of width {dim}; expected at least 2 rows and 1 column.")
    return math.sqrt(2 / (rows * (rows - 1) * dim))


def debiased_participation_ratio(features: Tensor) -> Tensor:
    """Participation ratio from estimates of both moments that have no bias for Gaussian features.

    Removes the bias of few rows for flat spectra; for steep ones the ratio is noisy: report the plain one too.
    NaN with fewer than 3 rows or without variance.
    """
    N, _ = check_features(features)
    dtype = torch.promote_types(features.dtype, torch.float32)
    scatter = Scatter.of(features)
    if N < 3 or scatter.constant:
        return torch.tensor(math.nan, dtype=dtype, device=features.device)
    n = N - 1
    covariance = scatter.matrix / n
    squares, trace = covariance.square().sum(), covariance.trace().square()
    of_square = n**2 * (squares - trace / n) / ((n - 1) * (n + 2))
    of_trace = n * ((n + 1) * trace - 2 * squares) / ((n - 1) * (n + 2))
    return (of_trace / of_square).to(dtype)


def debiased_class_separation(features: Tensor, labels: Tensor) -> Tensor:
    """Class separation without a row's pair with itself: classes of few rows do not look better than they are.

    Classes of one row say nothing about distances within and are left out. NaN with fewer than two classes left.
    """
    check_features(features, labels)
    dtype = torch.promote_types(features.dtype, torch.float32)
    sums = ClassSums.of(features, labels, unit=True)
    kept = sums.counts > 1
    K = int(kept.sum())
    if K < 2:
        return torch.tensor(math.nan, dtype=dtype, device=features.device)
    counts, totals = sums.counts[kept], sums.sums[kept]
    cosines = (totals.square().sum(1) - sums.squares[kept]) / (counts * (counts - 1))  # within each class
    means = totals / counts[:, None]
    across = means.sum(0).square().sum() - means.square().sum()
    within, total = 1 - cosines.mean(), 1 - (cosines.sum() + across) / K**2
    return (1 - within / total).to(dtype) if total > 1e-12 else torch.tensor(math.nan, dtype=dtype)
