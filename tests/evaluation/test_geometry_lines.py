"""Reference lines: theory against constructed and simulated features."""

import math

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.evaluation import geometry
from fewsight.evaluation.geometry_lines import (
    collapsed_simplex,
    debiased_class_separation,
    debiased_participation_ratio,
    finite_sample_isoscore,
    finite_sample_spread_of_cosine,
)


@pytest.mark.parametrize(("K", "n", "D"), [(4, 5, 7), (2, 3, 2), (8, 2, 7)])
def test_simplex_lines_are_what_the_measures_give(K, n, D):
    corners = torch.linalg.svd(torch.eye(K).double() - 1 / K).U[
        :, : K - 1
    ]  # rows: corners in K - 1 dimensions
    features = torch.cat([corners, torch.zeros(K, max(D - K + 1, 0))], 1).repeat_interleave(n, 0)[:, :D]
    labels = torch.arange(K).repeat_interleave(n)
    for name, value in collapsed_simplex(K, n, D).items():
        function = getattr(geometry, name)
        labelled = name in {
            "intra_class_cosine",
            "inter_class_cosine",
            "class_separation",
            "nc1",
            "alignment",
        }
        measured = function(features, labels) if labelled else function(features)
        assert measured.item() == pytest.approx(value, abs=1e-6), name


def test_white_samples_lie_on_the_finite_sample_line():
    torch.manual_seed(0)
    scores = torch.stack([geometry.isoscore(torch.randn(50, 64)) for _ in range(40)])
    assert scores.mean().item() == pytest.approx(finite_sample_isoscore(50, 64), rel=0.02)
    cosines = torch.stack([geometry.average_cosine(torch.randn(50, 64)) for _ in range(400)])
    # The deviation of 400 draws is known to 4 %.
    assert cosines.std().item() == pytest.approx(finite_sample_spread_of_cosine(50, 64), rel=0.15)


def test_bias_of_few_rows_is_removed():
    torch.manual_seed(0)
    ratios = torch.stack([debiased_participation_ratio(torch.randn(50, 64)) for _ in range(60)])
    assert ratios.mean().item() == pytest.approx(64, rel=0.05)
    many = torch.randn(20_000, 8)
    torch.testing.assert_close(
        debiased_participation_ratio(many), geometry.participation_ratio(many), rtol=2e-3, atol=0
    )
    assert debiased_participation_ratio(torch.ones(5, 3)).isnan()
    assert debiased_participation_ratio(torch.randn(2, 3)).isnan()


def test_random_labels_separate_nothing_once_self_pairs_are_gone():
    torch.manual_seed(0)
    features, labels = torch.randn(60, 30), torch.arange(20).repeat_interleave(3)
    assert geometry.class_separation(features, labels) > 0.25
    assert abs(debiased_class_separation(features, labels)) < 0.1
    assert debiased_class_separation(features, torch.arange(60)).isnan()
    u = features / features.norm(dim=1, keepdim=True)
    cosine = (u @ u.T).fill_diagonal_(math.nan)
    blocks = cosine.unflatten(0, (20, 3)).unflatten(2, (20, 3)).nanmean((1, 3))
    expected = 1 - (1 - blocks.diagonal().mean()) / (1 - blocks.mean())
    torch.testing.assert_close(debiased_class_separation(features, labels), expected, rtol=1e-4, atol=1e-5)


def test_errors():
    for call in (
        lambda: collapsed_simplex(1, 2, 3),
        lambda: collapsed_simplex(5, 2, 3),
        lambda: finite_sample_isoscore(2, 3),
        lambda: finite_sample_spread_of_cosine(1, 3),
    ):
        with pytest.raises(InvalidInput):
            call()
