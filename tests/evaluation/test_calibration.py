"""Calibration and conformal sets: plain oracles, promises kept on drawn data, extremes, errors."""

import math

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.evaluation.calibration import (
    auroc,
    conformal_rank,
    conformal_sets,
    conformal_threshold,
    expected_calibration_error,
    fit_temperature,
    fpr_at_tpr,
    full_conformal_p_values,
    jackknife_plus_sets,
    negative_log_likelihood,
)
from fewsight.heads.prototypes import leave_one_out_logits


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels_of(logits: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


def test_the_temperature_that_made_the_labels_is_found():
    logits = 2 * drawn(20_000, 4)
    # the standard error of log T with 20,000 rows is about 0.01
    assert fit_temperature(3 * logits, labels_of(logits)) == pytest.approx(3, rel=0.05)


def test_no_other_temperature_is_more_likely():
    logits = drawn(30, 4)
    labels = labels_of(logits)
    temperature = fit_temperature(logits, labels)
    best = negative_log_likelihood(logits, labels, temperature)
    assert all(
        negative_log_likelihood(logits, labels, temperature * f) >= best for f in (0.9, 0.999, 1.001, 1.1)
    )


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e6])
def test_bounds(size):
    right, wrong = torch.eye(3) * size, torch.eye(3).roll(1, 0) * size
    labels = torch.arange(3)
    assert fit_temperature(right, labels) == 0.01
    assert fit_temperature(wrong, labels) == 100
    assert fit_temperature(torch.full((3, 3), 0.1 * size), labels) == 100
    assert fit_temperature(right, labels, bounds=(0.5, 2)) == 0.5


def test_rows_without_a_true_logit_are_left_out():
    logits, labels = drawn(20, 3), torch.arange(20) % 3
    more = torch.cat([logits, torch.tensor([[-math.inf, 0.0, 1.0]], dtype=torch.float64)])
    assert fit_temperature(more, torch.cat([labels, torch.tensor([0])])) == fit_temperature(logits, labels)
    logits[0, 1] = -math.inf  # another class of a row may be unscored
    assert math.isfinite(fit_temperature(logits, labels))
    with pytest.raises(InvalidInput, match="logits"):
        fit_temperature(torch.full((2, 2), -math.inf), torch.tensor([0, 1]))


@pytest.mark.parametrize("scheme", ["width", "mass"])
def test_calibration_error_is_the_plain_sum(scheme):
    probabilities = drawn(53, 3).softmax(1)
    labels = labels_of(drawn(53, 3))
    confidence, predicted = probabilities.max(1)
    right = (predicted == labels).double()
    if scheme == "width":
        parts = [(confidence > k / 7) & (confidence <= (k + 1) / 7) for k in range(7)]
        groups = [part.nonzero()[:, 0] for part in parts]
    else:
        groups = confidence.argsort(stable=True).tensor_split(7)
    expected = sum(abs((right[g] - confidence[g]).sum()) for g in groups) / 53
    found = expected_calibration_error(probabilities, labels, bins=7, scheme=scheme)
    assert found == pytest.approx(float(expected), abs=1e-12)


def test_calibration_error_of_more_bins_than_rows_and_of_none():
    probabilities = torch.tensor([[0.9, 0.1]])
    for scheme in ("width", "mass"):
        found = expected_calibration_error(probabilities, torch.tensor([0]), bins=5, scheme=scheme)
        assert found == pytest.approx(0.1)
    assert math.isnan(expected_calibration_error(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)))


def test_auroc_is_the_share_of_pairs():
    scores = (drawn(40) * 3).round()
    positives = drawn(40, seed=1) > 0
    pairs = scores[positives][:, None] - scores[~positives][None]
    assert auroc(scores, positives) == pytest.approx(
        float((pairs > 0).double().mean() + (pairs == 0).double().mean() / 2)
    )
    assert auroc(-scores, positives) == pytest.approx(1 - auroc(scores, positives))
    assert math.isnan(auroc(scores, torch.ones(40, dtype=torch.bool)))
    assert auroc(torch.tensor([math.inf, -math.inf]), torch.tensor([True, False])) == 1


def test_share_of_false_positives_keeps_the_share_of_true_ones():
    scores, positives = drawn(60), drawn(60, seed=1) > 0
    known = scores[positives].sort(descending=True).values
    threshold = known[math.ceil(0.8 * len(known)) - 1]
    assert fpr_at_tpr(scores, positives, tpr=0.8) == float((scores[~positives] >= threshold).double().mean())


@pytest.mark.parametrize("score", ["lac", "aps"])
def test_conformal_sets_hold_the_true_label_as_often_as_promised(score):
    held, count = 0, 400
    for seed in range(count):
        logits = 2 * drawn(20, 4, seed=seed)
        labels, probabilities = labels_of(logits, seed), (logits / 3).softmax(1)
        threshold = conformal_threshold(probabilities[:19], labels[:19], alpha=0.2, score=score)
        held += int(conformal_sets(probabilities[19:], threshold, score=score)[0, labels[19]])
    # at least 0.8 and at most 0.85 are true; 400 draws have a standard error of 0.02
    assert 0.74 <= held / count <= 0.91


def test_full_conformal_is_brute_force():
    for metric in ("cosine", "euclidean"):
        features, queries, labels = drawn(7, 4), drawn(3, 4, seed=1), torch.tensor([2, 2, 5, 5, 5, 8, 8])
        found = full_conformal_p_values(features, labels, queries, metric=metric, scale=2.0)
        for q, query in enumerate(queries):
            for column, label in enumerate((2, 5, 8)):
                joined = torch.cat([labels, torch.tensor([label])])
                logits = leave_one_out_logits(
                    torch.cat([features, query[None]]), joined, metric=metric, scale=2.0
                )
                own = joined[:, None] == torch.tensor([2, 5, 8])
                misfit = logits.masked_fill(own, -math.inf).amax(1) - logits[own]
                assert found[q, column] == pytest.approx(float((misfit >= misfit[-1]).double().mean()))


def test_full_conformal_of_a_query_that_is_a_support():
    features, labels = drawn(6, 4), torch.tensor([0, 0, 0, 1, 1, 1])
    found = full_conformal_p_values(features, labels, features[:1])
    assert found[0, 0] >= 2 / 7  # the twin fits exactly as well as the query


def test_full_conformal_extremes():
    one_class = full_conformal_p_values(drawn(4, 3), torch.zeros(4, dtype=torch.long), drawn(2, 3, seed=1))
    assert ((one_class >= 0.2) & (one_class <= 1)).all()
    assert full_conformal_p_values(drawn(4, 3), torch.tensor([0, 0, 1, 1]), drawn(0, 3)).shape == (0, 2)
    one_shot = full_conformal_p_values(drawn(5, 3), torch.arange(5), drawn(9, 3, seed=1))
    assert (
        one_shot >= 5 / 6
    ).all()  # the four others score infinity under each candidate: nothing can be promised


def test_jackknife_plus_counts_strictly():
    left_out = torch.tensor([0.1, 0.2, 0.3, 0.4])
    candidates = torch.tensor([0.15, 0.4, 0.5]).expand(4, 1, 3)
    # kept while fewer than (1 - 0.4) 5 = 3 are smaller: 1, 3 and 4 are
    assert jackknife_plus_sets(left_out, candidates, alpha=0.4).tolist() == [[True, False, False]]


def test_ranks_are_exact_where_floating_point_is_not():
    assert conformal_rank(9, 0.7) == 3  # 10 (1 - 0.7) is 3.0000000000000004
    assert conformal_rank(18, 0.05) is None
    assert conformal_rank(19, 0.05) == 19


@pytest.mark.parametrize(
    "call",
    [
        lambda: fit_temperature(torch.zeros(2, 3), torch.tensor([0])),
        lambda: fit_temperature(torch.zeros(2, 3), torch.tensor([0, 3])),
        lambda: fit_temperature(torch.full((1, 2), math.nan), torch.tensor([0])),
        lambda: fit_temperature(torch.zeros(1, 2), torch.tensor([0]), bounds=(0, 1)),
        lambda: negative_log_likelihood(torch.zeros(1, 2), torch.tensor([0]), 0.0),
        lambda: expected_calibration_error(torch.zeros(1, 2), torch.tensor([0]), bins=0),
        lambda: expected_calibration_error(torch.full((1, 2), 2.0), torch.tensor([0])),
        lambda: expected_calibration_error(torch.zeros(1, 2), torch.tensor([0]), scheme="equal"),
        lambda: auroc(torch.zeros(2), torch.zeros(2)),
        lambda: auroc(torch.tensor([math.nan, 0]), torch.tensor([True, False])),
        lambda: fpr_at_tpr(torch.zeros(2), torch.tensor([True, False]), tpr=0.0),
        lambda: conformal_threshold(torch.zeros(1, 2), torch.tensor([0]), alpha=1.0),
        lambda: conformal_threshold(torch.zeros(1, 2), torch.tensor([0]), alpha=0.1, score="raps"),
        lambda: conformal_sets(torch.zeros(1, 2), torch.zeros(3)),
        lambda: jackknife_plus_sets(torch.zeros(3), torch.zeros(2, 1, 2), alpha=0.1),
        lambda: full_conformal_p_values(torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(1, 4)),
        lambda: full_conformal_p_values(
            torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(1, 3), metric="l1"
        ),
    ],
)
def test_wrong_input(call):
    with pytest.raises(InvalidInput):
        call()
