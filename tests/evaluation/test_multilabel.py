"""Multi-label measures against scikit-learn and plain loops."""

from __future__ import annotations

from itertools import pairwise

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from fewsight.errors import InvalidInput
from fewsight.evaluation.multilabel import average_precision, exact_ratio, precision_recall_f1

# Few distinct scores, so that ties are common.
columns = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12)


def one_class(rows: list[tuple[int, bool]]) -> tuple[torch.Tensor, torch.Tensor]:
    scores, targets = zip(*rows, strict=True)
    return torch.tensor(scores, dtype=torch.float64)[:, None], torch.tensor(targets)[:, None]


@settings(max_examples=80, deadline=None)
@given(columns.filter(lambda rows: any(target for _, target in rows)))
def test_average_precision_equals_scikit_learn_and_loops(rows: list[tuple[int, bool]]) -> None:
    scores, targets = one_class(rows)
    expected = average_precision_score(targets[:, 0], scores[:, 0])
    assert float(average_precision(scores, targets)) == pytest.approx(expected, abs=1e-12)
    curve = []
    for level in sorted({score for score, _ in rows}):
        chosen = [target for score, target in rows if score >= level]
        curve.append((sum(chosen) / len(chosen), sum(chosen) / sum(t for _, t in rows)))
    eleven = sum(max((p for p, r in curve if r >= i / 10 - 1e-12), default=0) for i in range(11)) / 11
    assert float(average_precision(scores, targets, "11point")) == pytest.approx(eleven, abs=1e-12)
    recalls = sorted({0.0, *(r for _, r in curve)})
    area = sum((high - low) * max(p for p, r in curve if r >= high) for low, high in pairwise(recalls))
    assert float(average_precision(scores, targets, "area")) == pytest.approx(area, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(columns, st.randoms(use_true_random=False))
def test_order_of_images_and_scale_of_scores_do_not_matter(rows, random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    for mode in ("average", "area", "11point"):
        first, second = (average_precision(*one_class(r), mode) for r in (rows, shuffled))
        numpy.testing.assert_allclose(first, second, atol=1e-12)
        scores, targets = one_class(rows)
        numpy.testing.assert_allclose(average_precision(scores.exp(), targets, mode), first, atol=1e-12)


def test_class_without_positives_is_not_a_number() -> None:
    scores = torch.rand(5, 2)
    targets = torch.tensor([[1, 0]] * 5)
    for mode in ("average", "area", "11point"):
        assert average_precision(scores, targets, mode).isnan().tolist() == [False, True]
    assert average_precision(scores, targets).dtype == torch.float32


def test_counts_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.2, 0.6, 0.7]])
    targets = torch.tensor([[1, 0, 0], [1, 1, 0]])
    found = precision_recall_f1(scores, targets)
    # predicted: a, b of the first image; b, c of the second
    assert found["CP"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["CR"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["CF1"] == pytest.approx(0.5)
    assert (found["OP"], found["OR"]) == pytest.approx((2 / 4, 2 / 3))
    top = precision_recall_f1(scores, targets, top=1)
    assert (top["OP"], top["OR"]) == pytest.approx((1 / 2, 1 / 3))


def test_nothing_predicted_counts_zero() -> None:
    found = precision_recall_f1(torch.zeros(2, 2), torch.zeros(2, 2), 0.5)
    assert set(found.values()) == {0.0}


def test_top_with_ties_takes_the_first_classes() -> None:
    found = precision_recall_f1(torch.ones(1, 4), torch.tensor([[1, 1, 0, 0]]), top=2)
    assert found["OF1"] == 1


def test_exact_ratio() -> None:
    present = torch.tensor([[True, False], [False, False]])
    assert exact_ratio(present, present) == 1
    assert exact_ratio(~present, present) == 0
    assert exact_ratio(torch.tensor([[1, 1], [0, 0]]), present) == 0.5


def test_errors_name_the_argument() -> None:
    scores, targets = torch.rand(3, 2), torch.ones(3, 2)
    for changed, word in (
        ((scores, targets[:2]), "targets"),
        ((scores, targets * 2), "targets"),
        ((scores * torch.nan, targets), "scores"),
        ((targets.long(), targets), "scores"),
        ((scores[:0], targets[:0]), "scores"),
    ):
        with pytest.raises(InvalidInput, match=word):
            average_precision(*changed)
    with pytest.raises(InvalidInput, match="mode"):
        average_precision(scores, targets, "mean")
    with pytest.raises(InvalidInput, match="top"):
        precision_recall_f1(scores, targets, top=3)
    with pytest.raises(InvalidInput, match="present"):
        exact_ratio(targets[:0], targets[:0])
    with pytest.raises(InvalidInput, match="present_predicted"):
        exact_ratio(targets * 3, targets)
