"""A map in two dimensions: photos that the backbone finds alike stand close together."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from fewsight.errors import InvalidInput

__all__ = ["choose_method", "place", "principal_components"]

Method = Literal["auto", "pca", "tsne"]
Array = npt.NDArray[np.float64]

# below, t-SNE has no neighbourhoods to keep; above, it takes over five seconds on one core
TSNE_LEAST, TSNE_MOST = 12, 2000
# half of scikit-learn's: on 360 photos of 15 classes, 74 % of a dot's 5 neighbours were of its class with 500 as
# with 1000 steps (PCA: 25 %)
ITERATIONS = 500


def place(features: npt.ArrayLike, *, method: Method = "auto", seed: int = 0) -> Array:
    """Coordinates in [0, 1] of features `[N, D]`, as `[N, 2]`; rows that are not finite get NaN.

    `pca` keeps the two directions of largest spread; `tsne` (van der Maaten and Hinton 2008, on the first 50
    principal components, started from the first two) keeps neighbourhoods and says nothing about distances
    between far groups; `auto` takes t-SNE for 12 to 2,000 photos. The same features give the same map.

    Raises:
        InvalidInput: `features` is not a matrix.
    """
    table = np.asarray(features, dtype=np.float64)
    if table.ndim != 2:
        raise InvalidInput(f"features has shape {table.shape}; expected [N, D], one row for each photo.")
    finite = np.isfinite(table).all(axis=1)
    places = np.full((len(table), 2), np.nan)
    points = _directions(table[finite])
    if choose_method(len(points), method) == "tsne" and np.ptp(points) > 0:
        places[finite] = _tsne(points, seed)
    else:
        places[finite] = principal_components(points, 2)
    return _to_unit_square(places)


def choose_method(count: int, method: Method = "auto") -> Literal["pca", "tsne"]:
    """The method that `place` takes for `count` photos."""
    if method == "auto":
        return "tsne" if TSNE_LEAST <= count <= TSNE_MOST else "pca"
    return method if method == "pca" or count > 3 else "pca"


def principal_components(points: Array, count: int) -> Array:
    """Projections `[N, count]` of points `[N, D]` on their first principal directions; zeros beyond the rank.

    Signs are fixed by making the largest loading of each direction positive.
    """
    N, D = points.shape
    projected = np.zeros((N, count))
    if N < 2 or D == 0:
        return projected
    centred = points - points.mean(axis=0)
    # the smaller of the two symmetric matrices has the same leading directions
    gram = centred @ centred.T if N <= D else centred.T @ centred
    directions = np.linalg.eigh(gram)[1][:, ::-1][:, :count]
    if N <= D:
        directions = centred.T @ directions
        directions /= np.maximum(np.linalg.norm(directions, axis=0), 1e-12)
    strongest = np.abs(directions).argmax(axis=0)
    signs = np.sign(directions[strongest, np.arange(directions.shape[1])])
    projected[:, : directions.shape[1]] = centred @ (directions * np.where(signs == 0, 1, signs))
    return projected


def _directions(table: Array) -> Array:
    """Rows of unit length: the heads compare directions, so the map does; zero rows stay."""
    return table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)


def _tsne(points: Array, seed: int) -> Array:
    from sklearn.manifold import TSNE

    N = len(points)
    reduced = principal_components(points, min(50, N))
    start = reduced[:, :2] / max(reduced[:, 0].std(), 1e-12) * 1e-4
    perplexity = min(30.0, max(2.0, (N - 1) / 4))
    placed: Array = TSNE(
        init=start.astype(np.float32),
        perplexity=perplexity,
        max_iter=ITERATIONS,
        random_state=seed,
        n_jobs=1,
    ).fit_transform(reduced.astype(np.float32))
    return placed


def _to_unit_square(places: Array) -> Array:
    """Stretch each axis to [0, 1]; an axis without spread becomes 0.5."""
    if not np.isfinite(places).any():
        return places
    low, high = np.nanmin(places, axis=0), np.nanmax(places, axis=0)
    spread = high - low
    return np.where(spread > 0, (places - low) / np.where(spread > 0, spread, 1), 0.5 + 0 * places)
