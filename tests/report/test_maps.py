"""Coordinates of the map: range, determinism, neighbours, degenerate inputs."""

from __future__ import annotations

import numpy as np
import pytest

from fewsight.errors import InvalidInput
from fewsight.report.maps import choose_method, place, principal_components


def groups(count: int = 90, dim: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    return 4 * np.eye(3, dim)[labels] + 0.3 * generator.normal(size=(count, dim)), labels


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_groups_stay_together(method: str) -> None:
    features, labels = groups()
    places = place(features, method=method)
    assert places.min() >= 0
    assert places.max() <= 1
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1) + 9 * np.eye(len(places))
    assert (labels[distances.argmin(1)] == labels).all()


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_the_same_features_give_the_same_map(method: str) -> None:
    features, _ = groups(30)
    given = features.copy()
    assert np.array_equal(place(features, method=method), place(features, method=method))
    assert np.array_equal(features, given)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_principal_components_are_those_of_the_singular_values(shape: tuple[int, int]) -> None:
    points = np.random.default_rng(1).normal(size=shape)
    projected = principal_components(points, 2)
    U, S, _ = np.linalg.svd(points - points.mean(0), full_matrices=False)
    # directions have a sign of their own; eigenvalues lose half of float64's digits on the way to the projections
    assert np.allclose(np.abs(projected), np.abs(U[:, :2] * S[:2]), atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_few_photos(count: int) -> None:
    places = place(np.random.default_rng(0).normal(size=(count, 4)))
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_equal_photos_and_zero_features_stand_in_the_middle(method: str) -> None:
    for features in (np.ones((20, 3)), np.zeros((20, 3)), np.ones((20, 1))):
        assert np.allclose(place(features, method=method), 0.5)


def test_rows_that_are_not_finite_are_left_out() -> None:
    features, _ = groups(20)
    whole = place(features[1:])
    features[0, 3] = np.nan
    places = place(features)
    assert np.isnan(places[0]).all()
    assert np.array_equal(places[1:], whole)


def test_method_follows_the_number_of_photos() -> None:
    assert [choose_method(count) for count in (5, 500, 5000)] == ["pca", "tsne", "pca"]


def test_wrong_shape_is_named() -> None:
    with pytest.raises(InvalidInput, match="features"):
        place(np.zeros(4))
