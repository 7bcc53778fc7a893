"""Several labels: scikit-learn on the same rows, intervals, classes that are left out."""

from __future__ import annotations

import numpy
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score

from fewsight.errors import InvalidInput
from fewsight.protocols.multi_label import evaluate_multi_label, multi_label_figures, one_vs_rest


def data(count: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    membership = torch.rand(count, 4, generator=generator) < torch.tensor([0.5, 0.3, 0.2, 0.4])
    directions = torch.randn(4, 8, generator=generator)
    features = membership.float() @ directions + 0.6 * torch.randn(count, 8, generator=generator)
    return features, membership


def test_equals_scikit_learn() -> None:
    features, membership = data()
    train, test = slice(0, 80), slice(80, 120)
    result = evaluate_multi_label(features[train], membership[train], features[test], membership[test])
    unit = (features / features.norm(dim=1, keepdim=True)).double().numpy()
    theirs = numpy.stack(
        [
            LogisticRegression(C=1 / 0.1, tol=1e-9, max_iter=5000)
            .fit(unit[train], membership[train, k])
            .predict_proba(unit[test])[:, 1]
            for k in range(4)
        ],
        axis=1,
    )
    ours = one_vs_rest(features[train], membership[train], features[test])
    # float32 features; both optima to about 1e-6
    numpy.testing.assert_allclose(ours.numpy(), theirs, atol=1e-4)
    expected = [average_precision_score(membership[test, k], theirs[:, k]) for k in range(4)]
    numpy.testing.assert_allclose(result.average_precisions.numpy(), expected, atol=1e-5)
    assert result.figures["mAP (average)"].mean == pytest.approx(numpy.mean(expected), abs=1e-5)
    overall = f1_score(membership[test].numpy(), theirs >= 0.5, average="micro")
    assert result.figures["OF1 at probability 0.5"].mean == pytest.approx(overall, abs=1e-6)


def test_every_figure_has_an_interval_around_it() -> None:
    features, membership = data()
    result = evaluate_multi_label(features[:60], membership[:60], features[60:], membership[60:])
    assert len(result.figures) == 7
    for name, value in result.figures.items():
        assert value.low < value.mean < value.high, name
        assert value.n == 60
    again = evaluate_multi_label(features[:60], membership[:60], features[60:], membership[60:])
    assert again.figures == result.figures


def test_perfect_scores_are_one_and_top_is_cut_to_the_classes() -> None:
    targets = torch.tensor([[True, False], [False, True], [True, True]])
    figures = multi_label_figures(targets.float(), targets)
    assert figures["mAP (11point)"] == figures["mAP (area)"] == figures["CF1 at probability 0.5"] == 1
    assert figures["OF1 of the 2 highest"] == pytest.approx(2 * (4 / 6) / (1 + 4 / 6))


def test_classes_that_cannot_be_learnt_are_left_out() -> None:
    features, membership = data()
    membership[:, 1], membership[:60, 3] = False, True
    result = evaluate_multi_label(features[:60], membership[:60], features[60:], membership[60:])
    assert result.judged.tolist() == [True, False, True, False]
    assert result.average_precisions.shape == (2,)
    with pytest.raises(InvalidInput, match="none or in all"):
        one_vs_rest(features, membership, features)
    with pytest.raises(InvalidInput, match="more photos"):
        evaluate_multi_label(features, torch.zeros_like(membership), features, membership)
