"""Measures of dense prediction: label maps in, intersections over unions out.

`segmentation_metrics` is the usual measure of semantic segmentation: one confusion matrix over all pixels of
the whole set. `fewshot_segmentation_metrics` is that of few-shot classification and segmentation (FS-CS: Kang
and Cho, "Integrative Few-Shot Learning for Classification and Segmentation", CVPR 2022; Kang, Koniusz, Cho and
Murray, "Distilling Self-Supervised Vision Transformers for Weakly-Supervised Few-Shot Classification and
Segmentation", CVPR 2023): areas are summed over episodes per absolute class, then divided.

Differs from the authors' code: areas are counted in integers, not in float32, whose sums lose pixels beyond
2^24.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = [
    "EpisodeAreas",
    "FewShotSegmentationMetrics",
    "episode_areas",
    "fewshot_segmentation_metrics",
    "metrics_of_areas",
    "segmentation_metrics",
]

VOID = 255
"""The value of pixels without a label in FS-CS targets."""


def segmentation_metrics(
    predictions: Tensor, targets: Tensor, num_classes: int, ignore_index: int = 255
) -> dict[str, Any]:
    """Confusion matrix, IoU and accuracies over all pixels of a set.

    Args:
        predictions: class of each pixel, integers 0..K-1, [B, H, W]; read only where the target is not ignored.
        targets: class of each pixel, integers 0..K-1 or `ignore_index`, [B, H, W].
        num_classes: K.
        ignore_index: target value of pixels that count nowhere.

    Returns:
        `confusion` [K, K] int64 (rows = target), `iou` [K] float64 (NaN for a class absent in both),
        `miou` (mean of the IoUs that are numbers), `accuracy`, `mean_accuracy` (mean recall of the classes
        that have target pixels); 0/0 is NaN.

    Raises:
        InvalidInput: shapes differ, or a class is outside 0..K-1.

    >>> maps = torch.tensor([[[0, 1], [1, 1]]])
    >>> segmentation_metrics(maps, torch.tensor([[[0, 0], [1, 255]]]), 2)["iou"].tolist()
    [0.5, 0.5]
    """
    check_shapes(predictions=(predictions, "B H W"), targets=(targets, "B H W"))
    K = _positive("num_classes", num_classes)
    valid = targets != ignore_index
    rows = _classes("targets", targets[valid], K)
    columns = _classes("predictions", predictions[valid], K)
    confusion = torch.bincount(rows * K + columns, minlength=K * K).reshape(K, K)
    right = confusion.diagonal().double()
    target_pixels, predicted_pixels = confusion.sum(1).double(), confusion.sum(0).double()
    iou = right / (target_pixels + predicted_pixels - right)
    return {
        "confusion": confusion,
        "iou": iou,
        "miou": float(iou.nanmean()),
        "accuracy": float(right.sum() / target_pixels.sum()),
        "mean_accuracy": float((right / target_pixels).nanmean()),
    }


class EpisodeAreas(NamedTuple):
    """Pixels of each way of each episode, background first: `intersection` and `union`, int64 [E, N + 1]."""

    intersection: Tensor
    union: Tensor


class FewShotSegmentationMetrics(NamedTuple):
    """IoU of each class [C], their mean, and the mean of pooled foreground and background IoU; in [0, 1]."""

    iou: Tensor
    miou: float
    fb_iou: float


def fewshot_segmentation_metrics(
    predictions: Tensor | Sequence[Tensor],
    targets: Tensor | Sequence[Tensor],
    way_classes: Tensor,
    *,
    classes: Sequence[int],
    void: Literal["published", "strict"] = "published",
) -> FewShotSegmentationMetrics:
    """mIoU over the classes of a fold and FB-IoU, areas summed over episodes.

    Every denominator is at least 1, so a class without an episode has IoU 0 and still counts in the mean.

    Args:
        predictions: way of each pixel, 0 = background, n = n-th way, [E, H, W], or E maps of any sizes.
        targets: the same with 255 = void.
        way_classes: absolute class of each way, [E, N].
        classes: the absolute classes of the fold, in the order of `iou`.
        void: `"published"` counts void pixels as background, as CST and iFSL do (their meter looks for the
            value 255 in a map of zeros and ones); `"strict"` leaves them out, as HSNet does.

    Raises:
        InvalidInput: shapes differ, a way is outside 0..N, or a class is not among `classes`.

    >>> maps = torch.tensor([[[0, 1]]])
    >>> fewshot_segmentation_metrics(maps, maps, torch.tensor([[7]]), classes=[7]).miou
    1.0
    """
    areas = episode_areas(predictions, targets, way_classes, void=void)
    return metrics_of_areas(areas, way_classes, classes=classes)


def episode_areas(
    predictions: Tensor | Sequence[Tensor],
    targets: Tensor | Sequence[Tensor],
    way_classes: Tensor,
    *,
    void: Literal["published", "strict"] = "published",
) -> EpisodeAreas:
    """Intersection and union of each way of each episode: what a bootstrap over episodes resamples.

    Arguments as in `fewshot_segmentation_metrics`.
    """
    if void not in ("published", "strict"):
        raise InvalidInput(f"void is {void!r}; expected 'published' or 'strict'.")
    E, N = check_shapes(way_classes=(way_classes, "E N")).values()
    if not len(predictions) == len(targets) == E:
        raise InvalidInput(
            f"predictions, targets and way_classes have {len(predictions)}, {len(targets)} and {E} episodes; "
            "expected equal numbers."
        )
    ways = N + 1
    counts = [_confusion(predictions[e], targets[e], ways, void) for e in range(E)]
    confusion = torch.stack(counts) if counts else torch.zeros(0, ways, ways, dtype=torch.int64)
    intersection = confusion.diagonal(dim1=1, dim2=2)
    return EpisodeAreas(intersection, confusion.sum(1) + confusion.sum(2) - intersection)


def metrics_of_areas(
    areas: EpisodeAreas, way_classes: Tensor, *, classes: Sequence[int]
) -> FewShotSegmentationMetrics:
    """The measures of `fewshot_segmentation_metrics` from areas, for instance of resampled episodes."""
    check_shapes(intersection=(areas.intersection, "E W"), union=(areas.union, "E W"))
    position = {int(absolute): row for row, absolute in enumerate(classes)}
    if not position or len(position) != len(classes):
        raise InvalidInput(f"classes is {list(classes)}; expected at least one class, each once.")
    unknown = sorted(set(way_classes.flatten().tolist()) - set(position))
    if unknown:
        raise InvalidInput(f"way_classes holds {unknown}, which are not among classes {list(classes)}.")
    rows = torch.tensor([position[int(absolute)] for absolute in way_classes.flatten()], dtype=torch.int64)
    per_class = [
        torch.zeros(len(classes), dtype=torch.int64).index_add_(0, rows, part[:, 1:].cpu().reshape(-1))
        for part in areas
    ]
    iou = _ratio(*per_class)
    foreground = _ratio(per_class[0].sum(), per_class[1].sum())
    background = _ratio(areas.intersection[:, 0].sum(), areas.union[:, 0].sum())
    return FewShotSegmentationMetrics(iou, float(iou.mean()), float(foreground + background) / 2)


def _confusion(prediction: Tensor, target: Tensor, ways: int, void: str) -> Tensor:
    """Pixels by (target way, predicted way) of one episode, int64 [ways, ways]."""
    check_shapes(predictions=(prediction, "H W"), targets=(target, "H W"))
    if void == "strict":
        valid = target != VOID
        prediction, target = prediction[valid], target[valid]
    else:
        target = target.masked_fill(target == VOID, 0)
    rows, columns = _classes("targets", target, ways), _classes("predictions", prediction, ways)
    return torch.bincount((rows * ways + columns).flatten(), minlength=ways * ways).reshape(ways, ways)


def _ratio(intersection: Tensor, union: Tensor) -> Tensor:
    return intersection.double() / union.clamp(min=1).double()


def _classes(name: str, labels: Tensor, count: int) -> Tensor:
    """`labels` as int64, checked to lie in 0..count-1."""
    if labels.is_floating_point() or labels.is_complex():
        raise InvalidInput(f"{name} has dtype {labels.dtype}; expected integers.")
    labels = labels.long()
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= count):
        raise InvalidInput(
            f"{name} holds values {int(labels.min())} to {int(labels.max())}; expected 0 to {count - 1}."
        )
    return labels


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise InvalidInput(f"{name} is {value}; expected at least 1.")
    return value
