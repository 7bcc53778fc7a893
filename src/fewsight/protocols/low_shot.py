"""Low-shot classification on frozen features: a few labelled photos a class, or 1 % and 10 % of them, and a test set.

The protocol of Assran et al. 2022, "Masked Siamese Networks" (arXiv 2204.07141, section 4 and logistic_eval.py): one
pass over the photos, multinomial logistic regression without intercept on rows that are centred over their own features
and at unit length, several draws of the labelled photos; the k-NN of Caron et al. 2021 beside it.

Differs from the published runs: features are those of the backbone's own pooling (published: the class token before
the last normalisation); the regression is solved to convergence (published: to a tolerance of 1e-3); ten draws, which
share no photo where a class has enough (published: three, which overlap).
Letters: N photos, D width, J draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Interval, share_interval
from fewsight.heads.logistic import logistic_regression
from fewsight.heads.neighbours import knn_probabilities
from fewsight.heads.vectors import unit
from fewsight.seeding import numpy_generator
from fewsight.shapes import check_shapes

__all__ = ["METHODS", "LowShotResult", "evaluate_low_shot", "low_shot_rows", "swept_penalty"]

PENALTY = 0.0025  # published for five images a class, on the sum of losses
GRID = tuple(10.0**power for power in range(-6, 2))
FOLDS = 3
METHODS = ("logistic regression as published", "logistic regression, penalty swept", "k-NN")


@dataclass(frozen=True)
class LowShotResult:
    """Accuracies of one method with one amount of labels.

    Attributes:
        method: one of `METHODS`.
        per_class: labelled images a class, or None.
        share: share of the labelled images, or None.
        accuracies: of each draw, on the same test set, float64 [J].
    """

    method: str
    per_class: int | None
    share: float | None
    accuracies: NDArray[numpy.float64]

    @property
    def accuracy(self) -> Interval:
        """Mean over draws with its 95 % interval; the test set is taken as given."""
        return share_interval(self.accuracies)


def low_shot_rows(
    labels: NDArray[numpy.int64],
    draw: int,
    *,
    per_class: int | None = None,
    share: float | None = None,
    largest: int = 5,
    draws: int = 10,
    seed: int = 0,
) -> NDArray[numpy.int64]:
    """Rows of the labelled photos of one draw, ascending; a function of (seed, draw).

    Args:
        labels: class ids of the photos to draw from, int [N].
        draw: 0 .. draws - 1.
        per_class: so many of each class; smaller sets are part of the larger ones of their draw.
        share: or this share of each class, at least one; in (0, 1].
        largest: the largest `per_class` of the study.
        draws: how many there are; they share no photo of a class that has `draws * largest`.

    Raises:
        InvalidInput: a class has fewer than `per_class` photos, or not exactly one amount is given.

    >>> low_shot_rows(numpy.array([0, 0, 0, 1, 1]), 0, share=0.1).shape
    (2,)
    """
    if (per_class is None) == (share is None) or (share is not None and not 0 < share <= 1):
        raise InvalidInput(f"per_class is {per_class} and share {share}; give one, the share in (0, 1].")
    chosen = []
    for name in numpy.unique(labels).tolist():
        rows = numpy.flatnonzero(labels == name)
        if per_class is None:
            assert share is not None
            order = numpy_generator(seed, "low-shot share", name, draw).permutation(rows)
            chosen.append(order[: max(1, round(share * len(rows)))])
            continue
        if len(rows) < per_class:
            raise InvalidInput(f"a class has {len(rows)} labelled photos; {per_class} a class are asked for.")
        if draws * largest <= len(rows):
            order = numpy_generator(seed, "low-shot", name).permutation(rows)[draw * largest :]
        else:
            order = numpy_generator(seed, "low-shot", name, draw).permutation(rows)
        chosen.append(order[:per_class])
    return numpy.sort(numpy.concatenate(chosen))


def evaluate_low_shot(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    per_class: Sequence[int] = (1, 2, 5),
    shares: Sequence[float] = (0.01, 0.1),
    draws: int = 10,
    seed: int = 0,
    methods: Sequence[str] = METHODS,
) -> Iterator[LowShotResult]:
    """Accuracy of each method with each amount of labels.

    An amount per class that some class cannot give is left out.

    Args:
        train, test: features `[N, D]` and `[M, D]`; the labelled photos are drawn from `train`.
        train_labels, test_labels: class ids `[N]`, `[M]`.
        per_class, shares: amounts of labels.
        draws: of the labelled photos.
        methods: of `METHODS`.

    Raises:
        InvalidInput: shapes disagree, or nothing is there to test.
    """
    check_shapes(
        train=(train, "N D"), train_labels=(train_labels, "N"),
        test=(test, "M D"), test_labels=(test_labels, "M"),
    )  # fmt: skip
    if not len(test) or not len(train):
        raise InvalidInput(f"there are {len(train)} photos to learn from and {len(test)} to be judged.")
    labels = train_labels.numpy()
    smallest = int(numpy.unique(labels, return_counts=True)[1].min())
    amounts: list[tuple[int | None, float | None]] = [(m, None) for m in per_class if m <= smallest]
    amounts += [(None, share) for share in shares]
    largest = max(per_class, default=1)
    for shot, share in amounts:
        drawn = [
            low_shot_rows(
                labels, j, per_class=shot, share=share, largest=largest, draws=draws, seed=seed
            )
            for j in range(draws)
        ]  # fmt: skip
        for method in methods:
            found = [
                _accuracy(method, train[rows], train_labels[rows], test, test_labels)
                for rows in map(torch.from_numpy, drawn)
            ]
            yield LowShotResult(method, shot, share, numpy.array(found))


def _accuracy(method: str, train: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> float:
    if method not in METHODS:
        raise InvalidInput(f"method is {method!r}; expected one of {', '.join(METHODS)}.")
    if method == "k-NN":
        classes, columns = torch.unique(labels, return_inverse=True)
        votes = knn_probabilities(unit(test), unit(train), columns)
        answers = classes[votes.argmax(1)]
    else:
        penalty = PENALTY if method == METHODS[0] else swept_penalty(train, labels)
        answers = _fitted(train, labels, test, penalty)[0]
    return float((answers == truth).double().mean())


def _fitted(train: Tensor, labels: Tensor, test: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Answers `[M]` and probabilities of the regression as published."""
    found = logistic_regression(train, labels, test, penalty, center_rows=True, normalize=True)
    return found.predictions, found.probabilities


def swept_penalty(train: Tensor, labels: Tensor) -> float:
    """The penalty of 10^-6 .. 10^1 that does best in cross-validation inside the labelled photos.

    Each class is spread evenly over at most three folds. Equal accuracies are told apart by the log likelihood. With
    one photo of some class there is nothing to hold out: the published penalty.
    """
    classes, columns, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    folds = min(FOLDS, int(counts.min()))
    if folds < 2 or len(classes) < 2:
        return PENALTY
    fold = torch.empty(len(labels), dtype=torch.long)
    for k in range(len(classes)):
        fold[columns == k] = torch.arange(int(counts[k])) % folds
    scores = []
    for penalty in GRID:
        right, likelihood = 0.0, 0.0
        for held in range(folds):
            inside = fold == held
            answers, shares = _fitted(train[~inside], columns[~inside], train[inside], penalty)
            right += float((answers == columns[inside]).sum())
            own = shares.gather(1, columns[inside][:, None]).clamp(min=1e-30)
            likelihood += float(own.log().sum())
        scores.append((right, likelihood, penalty))
    return max(scores)[2]
