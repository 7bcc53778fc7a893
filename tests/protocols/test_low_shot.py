"""Low-shot: draws are balanced, nested and apart; the methods are those of scikit-learn on the same rows."""

from __future__ import annotations

import numpy
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from fewsight.errors import InvalidInput
from fewsight.protocols.low_shot import METHODS, evaluate_low_shot, low_shot_rows, swept_penalty


def data(each: int = 24, classes: int = 4, width: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(each) + 3
    centres = torch.randn(classes, width, generator=generator)
    return centres[labels - 3] + 1.2 * torch.randn(len(labels), width, generator=generator), labels


def test_draws_are_balanced_nested_and_share_nothing() -> None:
    labels = numpy.repeat([7, 2, 5], [50, 60, 70])
    five = [low_shot_rows(labels, j, per_class=5) for j in range(10)]
    for j, rows in enumerate(five):
        assert numpy.unique(labels[rows], return_counts=True)[1].tolist() == [5, 5, 5]
        two, one = (set(low_shot_rows(labels, j, per_class=m).tolist()) for m in (2, 1))
        assert one < two < set(rows.tolist())
    assert len(set(numpy.concatenate(five).tolist())) == 10 * 15
    again = low_shot_rows(labels, 3, per_class=5)
    assert (again == five[3]).all()
    assert (low_shot_rows(labels, 3, per_class=5, seed=1) != five[3]).any()


def test_shares_are_of_each_class_and_at_least_one() -> None:
    labels = numpy.repeat([0, 1, 2], [3, 40, 100])
    rows = low_shot_rows(labels, 0, share=0.1)
    assert numpy.bincount(labels[rows]).tolist() == [1, 4, 10]
    small = numpy.repeat([0, 1], [6, 6])  # too few for draws that share nothing: still different ones
    drawn = {tuple(low_shot_rows(small, j, per_class=5)) for j in range(10)}
    assert len(drawn) > 3


def test_methods_agree_with_scikit_learn() -> None:
    features, labels = data()
    train, test = torch.arange(len(labels)) % 2 == 0, torch.arange(len(labels)) % 2 == 1
    results = list(
        evaluate_low_shot(
            features[train], labels[train], features[test], labels[test],
            per_class=(5,), shares=(), draws=4, methods=(METHODS[0], METHODS[2]),
        )
    )  # fmt: skip
    centred = features - features.mean(1, keepdim=True)
    centred = (centred / centred.norm(dim=1, keepdim=True)).double().numpy()
    unit = (features / features.norm(dim=1, keepdim=True)).numpy()
    place, truth = numpy.flatnonzero(train.numpy()), labels.numpy()
    for j in range(4):
        rows = place[low_shot_rows(truth[place], j, per_class=5, draws=4)]
        theirs = LogisticRegression(C=1 / 0.0025, fit_intercept=False, tol=1e-8, max_iter=5000)
        theirs.fit(centred[rows], truth[rows])
        assert results[0].accuracies[j] == pytest.approx(theirs.score(centred[test], truth[test]))
        votes = KNeighborsClassifier(20, metric="cosine", weights=lambda d: numpy.exp((1 - d) / 0.07))
        votes.fit(unit[rows], truth[rows])
        assert results[1].accuracies[j] == pytest.approx(votes.score(unit[test], truth[test]))
    assert [result.method for result in results] == [METHODS[0], METHODS[2]]
    assert results[0].accuracy.n == 4


def test_sweep_finds_the_penalty_that_noise_needs() -> None:
    features, labels = data(each=8, width=60)
    assert swept_penalty(features[::8], labels[::8]) == 0.0025  # one photo a class: nothing to hold out
    chosen = swept_penalty(features, labels)
    assert 1e-6 <= chosen <= 10
    features[:, :] = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    assert swept_penalty(features, labels) in [10.0**power for power in range(-6, 2)]


def test_amounts_that_a_class_cannot_give_are_left_out() -> None:
    features, labels = data(each=3)
    found = list(evaluate_low_shot(features, labels, features, labels, draws=2, methods=("k-NN",)))
    assert [(result.per_class, result.share) for result in found] == [
        (1, None),
        (2, None),
        (None, 0.01),
        (None, 0.1),
    ]
    assert found[0].accuracy.mean > 0.5
    with pytest.raises(InvalidInput, match="method"):
        next(evaluate_low_shot(features, labels, features, labels, methods=("guess",)))
    with pytest.raises(InvalidInput, match="to be judged"):
        next(evaluate_low_shot(features, labels, features[:0], labels[:0]))
    with pytest.raises(InvalidInput, match="4 a class"):
        low_shot_rows(labels.numpy(), 0, per_class=4)
    with pytest.raises(InvalidInput, match="share"):
        low_shot_rows(labels.numpy(), 0)
