"""Measures of multi-label prediction: average precision in three conventions, CF1/OF1, exact ratio.

The conventions differ by two or three points on rare classes, so a figure must name its own:

- `average`: sum of precision times the step in recall (scikit-learn);
- `area`: precision first made non-increasing from the right (PASCAL VOC from 2010 on);
- `11point`: mean of the best precision at recall >= 0, 0.1, ..., 1 (PASCAL VOC 2007: Everingham et al., 2010).

One point of the curve per distinct score: images of equal score stand together.
Differs from much public code, which breaks ties by file order.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["average_precision", "exact_ratio", "precision_recall_f1"]


def average_precision(
    scores: Tensor, targets: Tensor, mode: Literal["average", "area", "11point"] = "average"
) -> Tensor:
    """Average precision of each class, [K] in [0, 1]; NaN for a class without positives.

    Args:
        scores: [N, K], larger = more likely; infinite values are ranks like any other.
        targets: bool or 0/1, [N, K].
        mode: the convention, see the module.

    Raises:
        InvalidInput: shapes differ, scores hold NaN, targets hold anything but 0 and 1, or mode is unknown.

    >>> average_precision(torch.tensor([[0.9], [0.8], [0.7]]), torch.tensor([[1], [0], [1]]))
    tensor([0.8333])
    """
    scores, positive = _checked(scores, targets)
    if mode not in ("average", "area", "11point"):
        raise InvalidInput(f"mode is {mode!r}; expected 'average', 'area' or '11point'.")
    ordered, order = scores.sort(dim=0, descending=True)
    positive = positive.gather(0, order)
    precision, recall = _curve(ordered, positive)
    if mode == "11point":
        # Recall 3/10 in floating point can fall short of the level 0.3 by one rounding.
        reached = [torch.where(recall >= level / 10 - 1e-12, precision, 0).amax(0) for level in range(11)]
        result = torch.stack(reached).mean(0).masked_fill(positive.sum(0) == 0, torch.nan)
    else:
        if mode == "area":
            precision = precision.flip(0).cummax(0).values.flip(0)
        # A step in recall is (positives of this score) / (all positives): the sum runs over positives.
        result = (precision * positive).sum(0) / positive.sum(0)
    return result.to(scores.dtype)


def precision_recall_f1(
    scores: Tensor, targets: Tensor, threshold: float = 0.5, *, top: int | None = None
) -> dict[str, float]:
    """Per-class (CP, CR, CF1) and overall (OP, OR, OF1) precision, recall and F1, each in [0, 1].

    Predicted are labels of score >= `threshold`, or the `top` highest of each image (then no threshold; ties go
    to the lower class). CP and CR are means over **all** classes, CF1 is the harmonic mean of these two means
    (not the mean of F1); each 0/0 counts 0. The convention of ML-GCN (Chen et al., CVPR 2019).

    Raises:
        InvalidInput: shapes differ, scores hold NaN, targets hold anything but 0 and 1, or top is not in 1..K.
    """
    scores, positive = _checked(scores, targets)
    if top is None:
        predicted = (scores >= threshold).double()
    else:
        if not 1 <= top <= scores.shape[1]:
            raise InvalidInput(f"top is {top}; expected 1 to the number of classes, {scores.shape[1]}.")
        highest = scores.argsort(dim=1, descending=True, stable=True)[:, :top]
        predicted = torch.zeros_like(positive).scatter_(1, highest, 1.0)
    right, made, true = (predicted * positive).sum(0), predicted.sum(0), positive.sum(0)
    figures = {"CP": float(_share(right, made).mean()), "CR": float(_share(right, true).mean())}
    figures["CF1"] = _harmonic(figures["CP"], figures["CR"])
    figures |= {"OP": float(_share(right.sum(), made.sum())), "OR": float(_share(right.sum(), true.sum()))}
    figures["OF1"] = _harmonic(figures["OP"], figures["OR"])
    return figures


def exact_ratio(present_predicted: Tensor, present: Tensor) -> float:
    """Share of rows in which every label is right, in [0, 1]: the 0/1 exact ratio (ER) of FS-CS.

    Args:
        present_predicted: bool or 0/1, [E, N].
        present: bool or 0/1, [E, N].

    Raises:
        InvalidInput: shapes differ, there is no row, or a value is neither 0 nor 1.

    >>> exact_ratio(torch.tensor([[1, 0], [1, 1]]), torch.tensor([[1, 0], [0, 1]]))
    0.5
    """
    sizes = check_shapes(present_predicted=(present_predicted, "E N"), present=(present, "E N"))
    if sizes["E"] == 0:
        raise InvalidInput("present has no rows; expected at least one episode.")
    _binary("present_predicted", present_predicted)
    _binary("present", present)
    return float((present_predicted.bool() == present.bool()).all(1).double().mean())


def _curve(ordered: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Precision and recall [N, K] after the last image of equal score, at each place of a descending order."""
    N, K = ordered.shape
    place = torch.arange(N, device=ordered.device)[:, None].expand(N, K)
    ends = torch.ones_like(ordered, dtype=torch.bool)
    ends[:-1] = ordered[1:] != ordered[:-1]
    # The end of each image's group of ties: the nearest end at or below its place.
    end = torch.where(ends, place, N).flip(0).cummin(0).values.flip(0)
    found = positive.cumsum(0).gather(0, end)
    return found / (end + 1), found / positive.sum(0)


def _checked(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Scores as given, and targets as float64 zeros and ones."""
    sizes = check_shapes(scores=(scores, "N K"), targets=(targets, "N K"))
    if min(sizes.values()) == 0:
        raise InvalidInput(
            f"scores has shape {list(scores.shape)}; expected at least one image and one class."
        )
    if not scores.is_floating_point():
        raise InvalidInput(f"scores has dtype {scores.dtype}; expected floating point.")
    if scores.isnan().any():
        raise InvalidInput("scores holds NaN; expected numbers. Leave such images out, and say so.")
    _binary("targets", targets)
    return scores, targets.double()


def _binary(name: str, values: Tensor) -> None:
    if not ((values == 0) | (values == 1)).all():
        raise InvalidInput(f"{name} holds values other than 0 and 1: {values.unique()[:5].tolist()}.")


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return part / whole.clamp(min=1)


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
