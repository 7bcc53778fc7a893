"""How often the best class is right: accuracy, recall of each class, balanced accuracy, confusion matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["accuracy", "balanced_accuracy", "class_recall", "confusion_matrix"]


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """How often class j (column) was answered for class i (row).

    Args:
        predictions: column indices `[N]`.
        labels: column indices `[N]`.
        num_classes: K.

    Returns:
        long `[K, K]`.

    Raises:
        InvalidInput: shapes differ or an index is outside 0..K-1.

    >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    check_shapes(predictions=(predictions, "N"), labels=(labels, "N"))
    for name, index in (("predictions", predictions), ("labels", labels)):
        if index.is_floating_point() or index.dtype == torch.bool:
            raise InvalidInput(f"{name} has dtype {index.dtype}; expected column indices.")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < num_classes:
            raise InvalidInput(
                f"{name} runs from {index.min()} to {index.max()}; expected 0 to {num_classes - 1}."
            )
    flat = labels.long() * num_classes + predictions.long()
    return torch.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Share of predictions `[N]` equal to labels `[N]`; NaN without rows."""
    check_shapes(predictions=(predictions, "N"), labels=(labels, "N"))
    return (predictions == labels).double().mean().item() if len(labels) else math.nan


def class_recall(confusion: Tensor) -> Tensor:
    """Share of each class's photos that were answered right, `[K]`; NaN for a class without photos."""
    check_shapes(confusion=(confusion, "K K"))
    return confusion.diagonal().double() / confusion.sum(1)


def balanced_accuracy(confusion: Tensor) -> float:
    """Mean recall over the classes that have photos; NaN where none has."""
    return class_recall(confusion).nanmean().item()
