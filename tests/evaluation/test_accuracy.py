"""Accuracy, recall and the confusion matrix."""

import math

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.evaluation.accuracy import accuracy, balanced_accuracy, class_recall, confusion_matrix


def test_confusion_counts_rows_of_truth():
    labels, predictions = torch.tensor([0, 0, 0, 2]), torch.tensor([0, 0, 1, 2])
    confusion = confusion_matrix(predictions, labels, 3)
    assert confusion.tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert accuracy(predictions, labels) == 0.75
    recall = class_recall(confusion)
    assert recall[0] == pytest.approx(2 / 3)
    assert recall[1].isnan()
    assert balanced_accuracy(confusion) == pytest.approx((2 / 3 + 1) / 2)


def test_nothing_is_nan():
    empty = torch.zeros(0, dtype=torch.long)
    assert math.isnan(accuracy(empty, empty))
    assert math.isnan(balanced_accuracy(confusion_matrix(empty, empty, 2)))


def test_wrong_input():
    with pytest.raises(InvalidInput, match="labels"):
        confusion_matrix(torch.tensor([0]), torch.tensor([2]), 2)
    with pytest.raises(InvalidInput, match="predictions"):
        confusion_matrix(torch.tensor([0.0]), torch.tensor([0]), 2)
    with pytest.raises(InvalidInput, match="labels"):
        accuracy(torch.tensor([0]), torch.tensor([0, 1]))
