"""The scale of scores from few left-out ones: temperature of a softmax, or of one sigmoid for all classes.

    T0 = (deviation of the scores of other classes) / n^(1/3)    for n photos a class

held within a factor of 1.5 over six data sets and two networks (`benchmarks/calibration.py`) and needs no second photo
of a class, so it serves at one shot. With more, it is the centre of a prior on log T, and the likelihood of the
left-out scores decides. These come from n - 1 photos a class, so the fitted temperature is corrected by
((n - 1) / n)^exponent; the exponent was measured for each head.

Several labels a photo: one sigmoid for all classes (Platt 1999, with his smoothed targets) in place of the softmax.
Letters: S supports, K classes, n judged photos.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["fit_sigmoid", "sigmoid_scale", "softmax_temperature"]

PRIOR_DEVIATION = 0.4  # of log T around the rule
TWO_CLASSES = 0.09  # T0 in units of (own score - other score), where two classes give no deviation of others


def softmax_temperature(scores: Tensor, membership: Tensor, own: Tensor, exponent: float = 1 / 3) -> float:
    """Temperature of softmax(scores / T) for queries.

    Args:
        scores: `[S, K]` float64, one photo of each class left out; -inf for a class without a photo outside.
        membership: bool `[S, K]`.
        own: `[S, K]` float64, scores of the supports under the head that has seen them; used only where two classes
            leave nothing else to read a scale from.
        exponent: how the temperature falls with the number of photos a class, T ~ n^-exponent.
    """
    if scores.shape[1] == 1:
        return 1.0
    scale, margins = _scale_of_scores(scores, membership, own), _label_margins(scores, membership)
    if not len(margins):
        return scale
    shots = torch.where(membership, membership.sum(0), 0).amax(1)
    n = shots[shots > 1].double().mean().item()  # photos in the class of a judged photo
    # left out, it meets n - 1 of each class
    return ((n - 1) / n) ** exponent * _penalised_temperature(margins, scale / (n - 1) ** (1 / 3))


def _scale_of_scores(scores: Tensor, membership: Tensor, own: Tensor) -> float:
    """Deviation of the scores of other classes; with two classes a share of the gap to the own one."""
    others = scores[~membership]
    others = others[torch.isfinite(others)]
    deviation = others.std().item() if len(others) > 2 and scores.shape[1] > 2 else 0.0
    if deviation > 1e-6 * (1 + own.abs().max().item()):
        return deviation
    gap = (own[membership].mean() - others.mean()).item() if len(others) else 0.0
    return max(TWO_CLASSES * gap, 1e-3)


def _label_margins(scores: Tensor, membership: Tensor) -> Tensor:
    """l_k - l_y of the judged photos, `[n, K]`, y being the best of the own classes."""
    true = scores.masked_fill(~membership, -torch.inf).amax(1, keepdim=True)
    judged = torch.isfinite(true[:, 0])
    return scores[judged] - true[judged]


def _penalised_temperature(margins: Tensor, start: float) -> float:
    """argmin over T of mean lse(margins / T) + (log T - log start)^2 / (2 deviation^2 n), by golden section."""

    def loss(log_ratio: float) -> float:
        likelihood = torch.logsumexp(margins / (start * math.exp(log_ratio)), dim=1).mean().item()
        return likelihood + log_ratio**2 / (2 * PRIOR_DEVIATION**2 * len(margins))

    low, high, golden = -4.0, 4.0, (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    while high - low > 1e-6:
        if loss_left <= loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - golden * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + golden * (high - low)
            loss_right = loss(right)
    return start * math.exp((low + high) / 2)


def sigmoid_scale(scores: Tensor, membership: Tensor, own: Tensor) -> tuple[float, float]:
    """Temperature and offset of p = sigmoid((score - offset) / temperature) over all pairs of photo and class.

    Args: as in `softmax_temperature`.
    """
    finite = torch.isfinite(scores)
    values, targets = scores[finite], membership[finite]
    scale = _scale_of_scores(scores, membership, own)
    positives, negatives = int(targets.sum()), int((~targets).sum())
    if not positives or not negatives:
        middle = (values.mean().item() if len(values) else own.mean().item()) + scale
        return scale, middle
    smooth = torch.where(targets, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    middle = values.mean().item()
    inputs = (values - middle) / scale  # so that Newton steps are well scaled
    slope, shift = fit_sigmoid(inputs, smooth)
    if slope <= 0.05:  # scores that say nothing, or the wrong thing: nearly flat
        slope = 0.05
        shift = math.log(positives / negatives)
    return scale / slope, middle - scale * shift / slope


def fit_sigmoid(inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Slope a and shift b of sigmoid(a x + b) by damped Newton steps on the cross-entropy."""
    design = torch.stack([inputs, torch.ones_like(inputs)], dim=1)
    weights = torch.zeros(2, dtype=inputs.dtype)

    def loss(candidate: Tensor) -> float:
        logits = design @ candidate
        return (torch.nn.functional.softplus(logits) - targets * logits).mean().item()

    current = loss(weights)
    for _ in range(100):
        probability = torch.sigmoid(design @ weights)
        gradient = design.T @ (probability - targets) / len(targets)
        curvature = (design.T * (probability * (1 - probability))) @ design / len(targets)
        step = torch.linalg.solve(curvature + 1e-9 * torch.eye(2, dtype=inputs.dtype), gradient)
        size = 1.0
        while size > 1e-8 and loss(weights - size * step) > current:
            size /= 2
        weights, previous = weights - size * step, current
        current = loss(weights)
        if previous - current < 1e-12:
            break
    return weights[0].item(), weights[1].item()
