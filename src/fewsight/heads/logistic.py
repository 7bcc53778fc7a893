"""Logistic regression on the support, solved to convergence.

The classifier of the low-shot protocol (Assran et al. 2022, "Masked Siamese Networks", arXiv 2204.07141;
their logistic_eval.py): multinomial, no intercept, each sample centred over its own features and at unit length.

    minimise over W   sum_i CE(W x_i, y_i) + (penalty / 2) ||W||^2          (lambda = penalty / n in their terms)

Newton's method; each step solves (H + penalty) d = g by conjugate gradients with products H v = (P o (X v) minus its
mean under P) X, so no Hessian is formed. With fewer samples than features the optimum lies in the span of the samples,
and the problem is first turned into that span (QR), which changes nothing.

Differs from the published runs: solved to convergence, where theirs stop at a tolerance of 1e-3.
Letters: n samples, d features, K classes, m test samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewsight.backbones.features import Pooling
from fewsight.errors import InvalidInput
from fewsight.heads.head import Support
from fewsight.heads.vectors import VectorHead, check_labels, real, unit
from fewsight.shapes import check_shapes

__all__ = ["Logistic", "LogisticRegression", "logistic_regression"]

REFITS = 60  # leave-one-out refits of the head; larger supports are left out in this many parts


class LogisticRegression(NamedTuple):
    """What `logistic_regression` gives."""

    weights: Tensor  # [K, d]; rows = sorted distinct labels; without the intercept
    probabilities: Tensor  # [m, K]
    predictions: Tensor  # [m], original ids
    processed_features: Tensor  # [n, d]


def logistic_regression(
    features: Tensor,
    labels: Tensor,
    test_features: Tensor,
    penalty: float,
    center_rows: bool = False,
    normalize: bool = False,
    fit_intercept: bool = False,
) -> LogisticRegression:
    """Multinomial logistic regression with an L2 penalty (Assran et al. 2022, low-shot protocol).

    Args:
        features: `[n, d]`.
        labels: class ids `[n]`, integers with any gaps.
        test_features: `[m, d]`.
        penalty: positive, on the sum of losses; published: 0.00025, and 0.0025 for five images a class.
        center_rows: subtract from each sample the mean over its own features, in training and test alike.
        normalize: then divide by its length.
        fit_intercept: one number a class, not penalised, with mean zero.

    Raises:
        InvalidInput: shapes disagree, labels are not integers, a feature is not finite, or penalty is out of range.
    """
    check_shapes(features=(features, "n d"), labels=(labels, "n"), test_features=(test_features, "m d"))
    check_labels(labels, features)
    _check_penalty(penalty)
    dtype = real(features, "features").dtype
    train = processed(features, center_rows, normalize)
    test = processed(real(test_features, "test_features"), center_rows, normalize)
    classes, columns = torch.unique(labels, return_inverse=True)
    targets = torch.nn.functional.one_hot(columns, len(classes)).double()
    weights, intercept = solve(train, targets, penalty, fit_intercept=fit_intercept)
    probabilities = torch.softmax(test @ weights.T + intercept, dim=1)
    predictions = classes[probabilities.argmax(1)]
    return LogisticRegression(weights.to(dtype), probabilities.to(dtype), predictions, train.to(dtype))


def processed(features: Tensor, center_rows: bool, normalize: bool) -> Tensor:
    """Rows in float64, each minus its own mean and at unit length, as asked."""
    rows = features.detach().double()
    if not torch.isfinite(rows).all():
        raise InvalidInput("features holds NaN or infinity; expected finite numbers.")
    rows = rows - rows.mean(1, keepdim=True) if center_rows else rows
    return unit(rows) if normalize else rows


def solve(
    features: Tensor, targets: Tensor, penalty: float, *, several: bool = False, fit_intercept: bool = False
) -> tuple[Tensor, Tensor]:
    """Weights `[K, d]` and intercept `[K]` of the penalised regression of `targets` [n, K] on `features` [n, d].

    `several`: one sigmoid a class in place of the softmax, for photos with several labels.
    """
    n, d = features.shape
    basis = None
    if n < d:
        basis, upper = torch.linalg.qr(features.T)  # features = upper.T @ basis.T
        features = upper.T
    if fit_intercept:
        features = torch.cat([features, features.new_ones(n, 1)], dim=1)
    weights = _newton(features, targets, penalty, several=several, free=int(fit_intercept))
    intercept = weights[:, -1] if fit_intercept else weights.new_zeros(len(weights))
    weights = weights[:, :-1] if fit_intercept else weights
    if not several:
        intercept = intercept - intercept.mean()  # only differences count
    return (weights if basis is None else weights @ basis.T), intercept


def _newton(features: Tensor, targets: Tensor, penalty: float, *, several: bool, free: int) -> Tensor:
    """Weights `[K, d]`; the last `free` features are not penalised."""
    K, d = targets.shape[1], features.shape[1]
    ridge = features.new_full((d,), penalty)
    ridge[d - free :] = 0

    def loss(weights: Tensor) -> float:
        logits = features @ weights.T
        fit = torch.nn.functional.softplus(logits).sum() if several else torch.logsumexp(logits, 1).sum()
        return (fit - (targets * logits).sum() + (ridge * weights.square()).sum() / 2).item()

    weights = features.new_zeros(K, d)
    current = loss(weights)
    for _ in range(200):
        logits = features @ weights.T  # [n, K]
        probability = torch.sigmoid(logits) if several else torch.softmax(logits, dim=1)
        gradient = (probability - targets).T @ features + ridge * weights
        step = _conjugate_gradients(_hessian(features, probability, ridge, several), gradient)
        decrease, size = (gradient * step).sum().item(), 1.0
        while size > 1e-10 and loss(weights - size * step) > current - 1e-4 * size * decrease:
            size /= 2
        following = weights - size * step
        reached = loss(following)
        if not reached <= current:
            break
        weights, current = following, reached
        if decrease <= 1e-14 * (1 + abs(current)) or gradient.abs().max() < 1e-12:
            break
    return weights


def _hessian(features: Tensor, probability: Tensor, ridge: Tensor, several: bool):  # type: ignore[no-untyped-def]
    spread = probability * (1 - probability) if several else None

    def product(direction: Tensor) -> Tensor:
        change = features @ direction.T  # [n, K]
        if spread is not None:
            weighted = spread * change
        else:
            weighted = probability * (change - (probability * change).sum(1, keepdim=True))
        return weighted.T @ features + ridge * direction

    return product


def _conjugate_gradients(product, target: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """Solve product(x) = target to 1e-8 of its length."""
    solution, residual = torch.zeros_like(target), target.clone()
    direction, square = residual, residual.square().sum()
    goal = 1e-16 * square
    for _ in range(min(2 * target.numel() + 10, 2000)):
        if square <= goal:
            break
        image = product(direction)
        curvature = (direction * image).sum()
        if curvature <= 0:
            break
        size = square / curvature
        solution, residual = solution + size * direction, residual - size * image
        following = residual.square().sum()
        direction, square = residual + (following / square) * direction, following
    return solution


def _check_penalty(penalty: float) -> None:
    if not 0 < penalty < math.inf:
        raise InvalidInput(f"penalty is {penalty}; expected a positive finite number.")


class Logistic(VectorHead):
    """Scores by logistic regression on the support: logits of one softmax, or of a sigmoid a class.

    A support whose photos have several labels is fitted one class against the rest, with an intercept.

    Args:
        penalty: L2 penalty on the sum of losses, positive; from 0.0025 to 0.1 the accuracy hardly changes.
        center_rows: subtract from each sample the mean over its own features, as the published protocol does;
            it changes little for features of a network and ruins tables of few columns.
        pooling: which tokens serve as the vector of an image.
    """

    temperature_exponent = -1 / 6  # the more photos, the larger the weights

    def __init__(self, *, penalty: float = 0.1, center_rows: bool = False, pooling: Pooling = "cls") -> None:
        super().__init__(pooling)
        _check_penalty(penalty)
        self.penalty, self.center_rows = float(penalty), bool(center_rows)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"penalty": self.penalty, "center_rows": self.center_rows, "pooling": self.pooling}

    def prepare(self, vectors: Tensor, membership: Tensor) -> dict[str, Tensor]:
        """Weights `[K, D]` and intercept `[K]`."""
        several = bool((membership.sum(1) != 1).any())
        rows = processed(vectors, self.center_rows, normalize=True)
        weights, intercept = solve(
            rows, membership.double(), self.penalty, several=several, fit_intercept=several
        )
        return {"weights": weights.to(vectors.dtype), "intercept": intercept.to(vectors.dtype)}

    def compare(self, queries: Tensor, prepared: Mapping[str, Tensor]) -> Tensor:
        """`[Q, K]` logits."""
        queries = queries - queries.mean(1, keepdim=True) if self.center_rows else queries
        return unit(queries) @ prepared["weights"].T + prepared["intercept"]

    def leave_one_out(self, support: Support) -> Tensor:
        """Scores of every support under a fit without it, `[S, K]`.

        Large supports are left out in parts, each with as even a share of every class as can be.
        """
        vectors, membership = self.vectors(support.features), support.membership
        S, K = membership.shape
        order = torch.argsort(membership.long().argmax(1), stable=True)
        part = torch.empty(S, dtype=torch.long)
        part[order] = torch.arange(S) % min(S, REFITS)
        scores = vectors.new_full((S, K), -torch.inf)
        for index in range(min(S, REFITS)):
            inside = part == index
            kept = membership[~inside].any(0)
            if not kept.any():
                continue
            rows = ~inside & membership[:, kept].any(1)
            prepared = self.prepare(vectors[rows], membership[rows][:, kept])
            scores[inside.nonzero(), kept.nonzero()[:, 0]] = self.compare(vectors[inside], prepared)
        return scores
