"""Measures of geometry from sums alone: for features that come in a stream, or lie on several machines.

    sums = GeometrySums.of(first_features, first_labels)
    for features, labels in more:
        sums = sums.merged(GeometrySums.of(features, labels))
    sums.measures()["isoscore"]

Memory is O(D^2 + K D) whatever the number of rows. What needs rows again is not here: uniformity, partition isotropy.
The definitions stand in `evaluation/geometry.py`, whose functions call those below.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fewsight.evaluation.feature_sums import ClassSums, Scatter, check_features

__all__ = ["GeometrySums"]

NAN = torch.tensor(math.nan, dtype=torch.float64)


def average_cosine(unit: ClassSums) -> Tensor:
    """Over all pairs of rows."""
    pairs = unit.counts.sum() * (unit.counts.sum() - 1)
    return (unit.sums.sum(0).square().sum() - unit.squares.sum()) / pairs if pairs else NAN


def intra_class_cosine(unit: ClassSums) -> Tensor:
    """Over pairs of one class."""
    pairs = (unit.counts * (unit.counts - 1)).sum()
    return (unit.sums.square().sum() - unit.squares.sum()) / pairs if pairs else NAN


def inter_class_cosine(unit: ClassSums) -> Tensor:
    """Over pairs of two classes."""
    pairs = unit.counts.sum().square() - unit.counts.square().sum()
    return (unit.sums.sum(0).square().sum() - unit.sums.square().sum()) / pairs if pairs else NAN


def alignment(unit: ClassSums) -> Tensor:
    """Mean squared distance over pairs of one class."""
    pairs = (unit.counts * (unit.counts - 1)).sum()
    total = 2 * (unit.counts * unit.squares).sum() - 2 * unit.sums.square().sum()
    return total.clamp(min=0) / pairs if pairs else NAN


def class_separation(unit: ClassSums) -> Tensor:
    """1 - within / total cosine distance, self pairs included."""
    means = unit.sums / unit.counts[:, None]  # [K, D]
    within, total = 1 - means.square().sum(1).mean(), 1 - means.mean(0).square().sum()
    return 1 - within / total if len(means) > 1 and total > 1e-12 else NAN


def participation_ratio(scatter: Scatter) -> Tensor:
    """(tr S)^2 / ||S||^2."""
    if scatter.num_rows < 2 or scatter.constant:
        return NAN
    return (scatter.matrix.trace() / torch.linalg.vector_norm(scatter.matrix)).square()


def isoscore(ratio: Tensor, width: int) -> Tensor:
    """(participation ratio - 1) / (D - 1)."""
    return (ratio - 1) / (width - 1) if width > 1 else NAN


def entropy_rank(shares: Tensor) -> Tensor:
    """exp of the entropy; 0 log 0 = 0."""
    return torch.special.entr(shares).sum().exp()


def roots(matrix: Tensor) -> Tensor:
    """Singular values of X from X^T X; good to 1e-7 of the largest."""
    return torch.linalg.eigvalsh(matrix).clamp(min=0).sqrt()


def between_basis(raw: ClassSums, largest: Tensor) -> tuple[Tensor, Tensor] | None:
    """Class means `[K, D]` and a matrix W `[D, r]` with W W^T = the pseudo-inverse of Sigma_B.

    None with one class or equal means, up to 1e-12 of the `largest` value.
    """
    means = raw.sums / raw.counts[:, None]
    centred = means - means.mean(0)
    if len(means) < 2 or centred.abs().max() <= 1e-12 * largest.clamp(min=1):
        return None
    _, sigma, directions = torch.linalg.svd(centred / len(means) ** 0.5, full_matrices=False)
    kept = sigma.square() > 1e-10 * sigma[0].square()
    return means, directions[kept].T / sigma[kept]


def nc1(raw: ClassSums, scatter: Scatter) -> Tensor:
    """tr(Sigma_W Sigma_B^+) / K, with Sigma_W = (scatter - scatter of the class means) / N."""
    found = between_basis(raw, scatter.mean.abs().max())
    if found is None or scatter.constant:
        return NAN
    means, basis = found
    spread = (means - scatter.mean) @ basis  # [K, r]
    total = (basis * (scatter.matrix @ basis)).sum() - (raw.counts[:, None] * spread.square()).sum()
    return total.clamp(min=0) / (scatter.num_rows * len(means))


class GeometrySums(NamedTuple):
    """Everything that a stream of features leaves behind; merged by addition."""

    unit: ClassSums
    raw: ClassSums
    scatter: Scatter

    @classmethod
    def of(cls, features: Tensor, labels: Tensor) -> GeometrySums:
        """The sums of features `[N, D]` with integer labels `[N]`.

        Raises:
            InvalidInput: a shape or dtype is wrong, or there is no row.
        """
        check_features(features, labels)
        unit, raw = (ClassSums.of(features, labels, unit=unit) for unit in (True, False))
        return cls(unit, raw, Scatter.of(features))

    def merged(self, other: GeometrySums) -> GeometrySums:
        """The sums of both sets of features."""
        return GeometrySums(
            self.unit.merged(other.unit), self.raw.merged(other.raw), self.scatter.merged(other.scatter)
        )

    def measures(self) -> dict[str, float]:
        """Name -> value; NaN where undefined. Ranks are good to 1e-7 of the largest singular value."""
        ratio = participation_ratio(self.scatter)
        centred, raw = roots(self.scatter.matrix), roots(self.scatter.uncentred())
        limit = min(self.scatter.num_rows, len(raw))
        shares = raw[-limit:] / raw[-limit:].sum() + 1e-7
        values = {
            "average_cosine": average_cosine(self.unit),
            "intra_class_cosine": intra_class_cosine(self.unit),
            "inter_class_cosine": inter_class_cosine(self.unit),
            "alignment": alignment(self.unit),
            "class_separation": class_separation(self.unit),
            "participation_ratio": ratio,
            "isoscore": isoscore(ratio, len(raw)),
            "effective_rank": NAN if ratio.isnan() else entropy_rank(centred / centred.sum()),
            "rankme": entropy_rank(shares),
            "nc1": nc1(self.raw, self.scatter),
        }
        return {name: float(value) for name, value in values.items()}
