"""Prototypes: a query is compared with the mean of each class.

Jake Snell, Kevin Swersky, Richard Zemel, "Prototypical Networks for Few-shot Learning", NeurIPS 2017 (arXiv
1703.05175), as in Meta-Dataset's learner (Triantafillou et al. 2020); leave-one-out in closed form.

    m_k = mean of the supports of class k
    euclidean:  logit[q, k] = -scale ||x_q - m_k||^2          cosine:  logit[q, k] = scale cos(x_q, m_k)

Without sample i of class k the mean is (n_k m_k - x_i) / (n_k - 1), so that the support itself tells how well the
head will do (Fukunaga, "Introduction to Statistical Pattern Recognition", section 5.3 on leave-one-out).

Differs from the paper: the head (not the functions) takes unit features and subtracts a share of the supports' mean
before it compares. Letters: Q queries, S supports, K classes, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from fewsight.backbones.features import Pooling
from fewsight.errors import InvalidInput
from fewsight.heads.head import Support, membership_from_labels
from fewsight.heads.vectors import VectorHead, check_labels, class_sums, real, unit
from fewsight.shapes import check_shapes

__all__ = ["Metric", "Prototypes", "leave_one_out_logits", "prototype_logits"]

Metric = Literal["euclidean", "cosine"]

CENTRING = 0.7  # share of the supports' mean; chosen over 0 to 1 by benchmarks/calibration.py


def prototype_logits(
    queries: Tensor,
    supports: Tensor,
    labels: Tensor,
    *,
    metric: Metric = "euclidean",
    scale: float = 1.0,
    epsilon: float = 1e-3,
) -> Tensor:
    """Logits of queries against the class means (Snell et al. 2017, equation 2; Meta-Dataset's learner).

    Args:
        queries: `[Q, D]`.
        supports: `[S, D]`.
        labels: class ids `[S]`, integers with any gaps; any number of supports a class.
        metric: `euclidean` is minus the squared distance, `cosine` the product of vectors at unit length.
        scale: factor on the logits, positive.
        epsilon: least squared norm that a vector is divided by (cosine only).

    Returns:
        `[Q, K]`, larger = more alike; columns are the sorted distinct labels. The dtype is that of the features,
        float32 for half types.

    Raises:
        InvalidInput: shapes disagree, labels are not integers, there is no support, or a number is out of range.

    >>> prototype_logits(torch.tensor([[1.0]]), torch.tensor([[0.0], [2.0], [3.0]]), torch.tensor([4, 4, 9]))
    tensor([[-0., -4.]])
    """
    check_shapes(queries=(queries, "Q D"), supports=(supports, "S D"), labels=(labels, "S"))
    check_labels(labels, supports)
    _check_numbers(metric, scale, epsilon=epsilon)
    supports = real(supports, "supports")
    queries = real(queries, "queries").to(supports.dtype)
    membership = membership_from_labels(labels)
    prototypes = class_sums(supports, membership) / membership.sum(0)[:, None]
    if metric == "euclidean":
        return -scale * squared_distances(queries, prototypes)
    return scale * (_shortened(queries, epsilon) @ _shortened(prototypes, epsilon).T)


def squared_distances(rows: Tensor, columns: Tensor) -> Tensor:
    """`[Q, K]` squared distances of `rows` [Q, D] to `columns` [K, D].

    |q|^2 - 2 q.p + |p|^2 needs no [Q, K, D]; it is taken from the centre of the columns, since far from the origin
    the three terms cancel and single precision loses the answer. The result does not depend on the centre, so no
    gradient flows through it.
    """
    centre = columns.detach().mean(0)
    rows, columns = rows - centre, columns - centre
    cross = rows @ columns.T  # [Q, K]
    return (rows.square().sum(-1)[:, None] + columns.square().sum(-1) - 2 * cross).clamp_min(0)


def _shortened(rows: Tensor, epsilon: float) -> Tensor:
    least = max(epsilon, torch.finfo(rows.dtype).tiny)
    return rows / rows.square().sum(-1, keepdim=True).clamp_min(least).sqrt()


def leave_one_out_logits(
    features: Tensor, labels: Tensor, *, metric: Metric = "cosine", scale: float, normalize: bool = False
) -> Tensor:
    """Logits of each sample against the class means that were made without it.

    Args:
        features: `[S, D]`.
        labels: class ids `[S]`, integers with any gaps.
        metric: `euclidean` is minus the squared distance, `cosine` the plain cosine, 0 where one of the two is
            the zero vector.
        scale: factor on the logits, positive.
        normalize: bring the features to unit length before the means.

    Returns:
        `[S, K]`, columns are the sorted distinct labels; -inf where a class has no other sample.

    Raises:
        InvalidInput: shapes disagree, labels are not integers, there is no sample, or a number is out of range.

    Differs from `prototype_logits`: the cosine has no epsilon.

    >>> features, labels = torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1])
    >>> leave_one_out_logits(features, labels, metric="euclidean", scale=1.0)
    tensor([[ -4., -25.],
            [ -4.,  -9.],
            [-16., -inf]])
    """
    check_shapes(features=(features, "S D"), labels=(labels, "S"))
    check_labels(labels, features)
    _check_numbers(metric, scale)
    features = real(features, "features")
    features = unit(features) if normalize else features
    return scale * leave_one_out_similarities(features, membership_from_labels(labels), metric)


def leave_one_out_similarities(features: Tensor, membership: Tensor, metric: Metric) -> Tensor:
    """`leave_one_out_logits` for `membership` [S, K] with any number of classes a sample; scale 1."""
    sums, shots = class_sums(features, membership), membership.sum(0)
    scores = similarities(features, sums / shots[:, None], metric)
    sample, own = membership.nonzero(as_tuple=True)  # [M] each: only these columns change
    rest = _without(sums, features, sample, own, membership) / (shots[own] - 1).clamp_min(1)[:, None]
    if metric == "euclidean":
        values = -(features[sample] - rest).square().sum(-1)
    else:
        values = (unit(features[sample]) * unit(rest)).sum(-1)
    values = torch.where(shots[own] > 1, values, -torch.inf)
    return scores.index_put((sample, own), values)


def similarities(rows: Tensor, columns: Tensor, metric: Metric) -> Tensor:
    """`[Q, K]`: minus the squared distance, or the plain cosine (0 with a zero vector)."""
    return -squared_distances(rows, columns) if metric == "euclidean" else unit(rows) @ unit(columns).T


def _without(sums: Tensor, features: Tensor, sample: Tensor, own: Tensor, membership: Tensor) -> Tensor:
    """`[M, D]`: the sum of class `own` without `sample`; rounding noise is the zero vector that it stands for."""
    rest = sums[own] - features[sample]
    size = features.detach().abs().amax(-1)  # [S]
    largest = torch.where(membership, size[:, None], 0).amax(0)[own]
    noise = 4 * torch.finfo(rest.dtype).eps * membership.sum(0)[own] * largest
    return torch.where((rest.detach().abs().amax(-1) > noise)[:, None], rest, 0)


def _check_numbers(metric: str, scale: float, **not_negative: float) -> None:
    if metric not in ("euclidean", "cosine"):
        raise InvalidInput(f"metric is {metric!r}; expected 'euclidean' or 'cosine'.")
    if not (math.isfinite(scale) and scale > 0):
        raise InvalidInput(f"scale is {scale}; expected a positive finite number.")
    for name, value in not_negative.items():
        if not (math.isfinite(value) and value >= 0):
            raise InvalidInput(f"{name} is {value}; expected a finite number of at least 0.")


class Prototypes(VectorHead):
    """Scores by the similarity to each class's mean.

    Args:
        metric: `cosine` or `euclidean`.
        scale: factor on the scores, positive; a temperature is fitted after it.
        normalize: bring features to unit length first.
        centring: share of the supports' mean, in [0, 1], that is subtracted before the cosine. All of it helps with
            one photo a class, none with five; most of it serves both, and tells unknown classes better than either.
        pooling: which tokens serve as the vector of an image.
    """

    def __init__(
        self,
        *,
        metric: Metric = "cosine",
        scale: float = 1.0,
        normalize: bool = True,
        centring: float = CENTRING,
        pooling: Pooling = "cls",
    ) -> None:
        super().__init__(pooling)
        _check_numbers(metric, scale)
        if not 0 <= centring <= 1:
            raise InvalidInput(f"centring is {centring!r}; expected a share in [0, 1].")
        self.metric: Metric = metric
        self.scale, self.normalize, self.centring = float(scale), normalize, float(centring)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "metric": self.metric,
            "scale": self.scale,
            "normalize": self.normalize,
            "centring": self.centring,
            "pooling": self.pooling,
        }

    def prepare(self, vectors: Tensor, membership: Tensor) -> dict[str, Tensor]:
        """The prototypes `[K, D]` and what is subtracted, `[D]`."""
        vectors = unit(vectors) if self.normalize else vectors
        centre = self.centring * vectors.mean(0)
        means = class_sums(vectors - centre, membership) / membership.sum(0)[:, None]
        return {"prototypes": means, "centre": centre}

    def compare(self, queries: Tensor, prepared: Mapping[str, Tensor]) -> Tensor:
        """`[Q, K]` scores."""
        queries = unit(queries) if self.normalize else queries
        return self.scale * similarities(queries - prepared["centre"], prepared["prototypes"], self.metric)

    def leave_one_out(self, support: Support) -> Tensor:
        """Scores of every support without itself, `[S, K]`, in closed form; -inf where a class has no other."""
        vectors, membership = self.vectors(support.features), support.membership
        vectors = unit(vectors) if self.normalize else vectors
        if self.metric == "euclidean" or not self.centring or len(vectors) == 1:  # a distance feels no shift
            return self.scale * leave_one_out_similarities(vectors, membership, self.metric)
        return self.scale * _centred_leave_one_out(vectors, membership, self.centring)


def _centred_leave_one_out(vectors: Tensor, membership: Tensor, share: float) -> Tensor:
    """Leave-one-out cosines `[S, K]` where the centre, too, is made without the sample.

    Sample s meets the centre b_s = share (S c - x_s) / (S - 1) of the others. The cosine of x_s - b_s and m_k - b_s
    follows from products of x_s - b_s and b_s with the means: no [S, K, D] is needed.
    """
    S = len(vectors)
    sums, shots = class_sums(vectors, membership), membership.sum(0)
    means = sums / shots[:, None]
    centre = share * (vectors.sum(0) - vectors) / (S - 1)  # [S, D]
    queries = unit(vectors - centre)
    product = queries @ means.T - (queries * centre).sum(-1, keepdim=True)  # [S, K]
    square = means.square().sum(-1) - 2 * centre @ means.T + centre.square().sum(-1, keepdim=True)
    noise = 16 * torch.finfo(square.dtype).eps * means.square().sum(-1)
    scores = torch.where(square > noise, product / square.clamp_min(noise).sqrt(), 0).clamp(-1, 1)

    sample, own = membership.nonzero(as_tuple=True)
    rest = _without(sums, vectors, sample, own, membership) / (shots[own] - 1).clamp_min(1)[:, None]
    values = (queries[sample] * unit(rest - centre[sample])).sum(-1)
    return scores.index_put((sample, own), torch.where(shots[own] > 1, values, -torch.inf))
