"""From scores of supports alone to "present" or "absent": a threshold, what it promises, and a probability.

Every support image is asked against the others: scores for classes that it has are positives, scores for classes
that it has not are negatives. No query is ever read.

Source: the finite-sample quantile is that of split conformal prediction (Vovk, Gammerman and Shafer, 2005); the
rest is ours.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

MANY = 20
"""Scores of each kind from which balanced accuracy is more than chance."""

__all__ = ["PresenceThreshold", "presence_probability", "presence_threshold", "separation"]


class PresenceThreshold(NamedTuple):
    """A class is called present where its score exceeds `value`.

    `false_alarm_rate` is the promised share of absent classes called present, or None where the support is too
    small to promise one. `scale` turns distances from the threshold into log odds. `rule` names how the value
    was found; `"level"`: no support showed an absent class, and a level given from elsewhere stands in.
    """

    value: float
    scale: float
    rule: Literal["balanced", "means", "conformal", "largest", "level"]
    false_alarm_rate: float | None


def presence_threshold(
    positives: Tensor, negatives: Tensor, *, alpha: float | None = None, default: float = 0.4
) -> PresenceThreshold:
    """Threshold of presence from scores of supports.

    Without `alpha`, and with positives: the middle of the two means (of `default` in place of the negatives' mean
    where there are none); from twenty scores of each kind on the middle of the widest gap of best balanced
    accuracy. With fewer that gap is chance: on 2-way 5-shot episodes of VOC photos the means gave an exact ratio
    of 0.81, the gap 0.75.

    With `alpha`, or without positives: the 1 - alpha conformal quantile of the negatives (alpha 0.1 unless given),
    or the largest negative where they are fewer than 1/alpha - 1 and nothing can be promised (without `alpha` at
    least `default`).

    Args:
        positives: scores of classes that are there, [n], any order, may be empty.
        negatives: scores of classes that are not there, [m], may be empty.
        alpha: share of absent classes that may be called present, in (0, 1); given = a promise is asked for.
        default: a score that counts as absent where there are no negatives.

    Raises:
        InvalidInput: not one axis, NaN, or alpha outside (0, 1).

    >>> round(presence_threshold(torch.tensor([0.9, 0.7]), torch.tensor([0.1, 0.3])).value, 6)
    0.5
    """
    sizes = check_shapes(positives=(positives, "n"), negatives=(negatives, "m"))
    if positives.isnan().any() or negatives.isnan().any():
        raise InvalidInput("positives or negatives holds NaN; expected scores.")
    if alpha is not None and not 0 < alpha < 1:
        raise InvalidInput(f"alpha is {alpha}; expected a number in (0, 1).")
    positives, negatives = positives.double(), negatives.double()
    scale = _scale(positives, negatives)
    if sizes["m"] == 0:
        middle = (float(positives.mean()) + default) / 2 if sizes["n"] and alpha is None else default
        return PresenceThreshold(middle, scale, "level", None)
    if alpha is None and min(sizes["n"], sizes["m"]) >= MANY:
        return PresenceThreshold(_balanced(positives, negatives), scale, "balanced", None)
    if alpha is None and sizes["n"]:
        return PresenceThreshold(float(positives.mean() + negatives.mean()) / 2, scale, "means", None)
    rate = 0.1 if alpha is None else alpha
    # 1e-9: (m + 1)(1 - alpha) can exceed a whole number by rounding.
    rank = math.ceil((sizes["m"] + 1) * (1 - rate) - 1e-9)
    if rank > sizes["m"]:
        # Where nothing is promised and no support shows presence, two or three negatives say too little.
        floor = default if alpha is None else -math.inf
        return PresenceThreshold(max(float(negatives.max()), floor), scale, "largest", None)
    return PresenceThreshold(float(negatives.sort().values[rank - 1]), scale, "conformal", rate)


def presence_probability(scores: Tensor, threshold: PresenceThreshold) -> Tensor:
    """Logistic of the distance from the threshold: above 0.5 exactly where the class is called present."""
    return ((scores - threshold.value) / threshold.scale).sigmoid()


def separation(positives: Tensor, negatives: Tensor) -> float | None:
    """Chance that a positive exceeds a negative (AUROC, ties count half), or None with fewer than five of each.

    Below about 0.7 neither absence nor masks from labels are to be relied on: ask for masks.
    """
    if min(len(positives), len(negatives)) < 5:
        return None
    difference = positives[:, None] - negatives[None, :]
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())


def _balanced(positives: Tensor, negatives: Tensor) -> float:
    """Middle of the widest gap between scores at which balanced accuracy is best."""
    scores = torch.cat([positives, negatives]).unique()
    if len(scores) == 1:
        return float(scores[0])
    middles = (scores[1:] + scores[:-1]) / 2
    accuracy = (positives[None] > middles[:, None]).double().mean(1)
    accuracy += (negatives[None] <= middles[:, None]).double().mean(1)
    best = accuracy >= accuracy.max() - 1e-12
    return float(middles[torch.where(best, scores[1:] - scores[:-1], -1).argmax()])


def _scale(positives: Tensor, negatives: Tensor) -> float:
    """A quarter of the distance of the means, so that they lie at about 0.88 and 0.12; else a usual value."""
    if len(positives) and len(negatives):
        return max(float(positives.mean() - negatives.mean()) / 4, 1e-2)
    return 0.1
