"""Why a photo got its label: the nearest support photos, and the patches that matched where a head compares patches."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewsight.backbones.features import Features
from fewsight.heads.head import Support
from fewsight.predictions import Explanation, MatchedPatch, SupportMatch

__all__ = ["explanation"]

NEAREST = 3  # support photos of a class
PATCHES = 12  # matched patches of a class
APART = 2.0  # steps of the grid between two of them at least: neighbours say the same twice


def explanation(
    column: int,
    scores: Tensor,
    similarity: Tensor,
    support: Support,
    files: list[str],
    conditioned: Any,
    features: Features,
) -> Explanation:
    """Reasons for one class and its strongest rival.

    Args:
        column: of the class.
        scores: of the photo, `[K]`.
        similarity: cosines of the photo to the supports, `[S]`.
        support: the supports.
        files: their names.
        conditioned: the head; one with `matches` and `grid` also names patches.
        features: of the one photo.
    """
    others = scores.clone()
    others[column] = -torch.inf
    rival = int(others.argmax()) if len(scores) > 1 else None
    places = _places((column, rival), support, conditioned, features)
    evidence = () if places is None else places.heat
    return Explanation(
        support.names[column],
        "" if rival is None else support.names[rival],
        _nearest(similarity, column, support, files),
        () if rival is None else _nearest(similarity, rival, support, files),
        () if places is None else _patches(places, 0, column, support, files),
        () if places is None or rival is None else _patches(places, 1, rival, support, files),
        evidence,
    )


def _members(column: int, support: Support) -> Tensor:
    return support.membership[:, column].nonzero()[:, 0]


def _nearest(similarity: Tensor, column: int, support: Support, files: list[str]) -> tuple[SupportMatch, ...]:
    inside = _members(column, support)
    order = inside[similarity[inside].argsort(descending=True, stable=True)][:NEAREST]
    return tuple(
        SupportMatch(files[row], support.names[column], float(similarity[row])) for row in order.tolist()
    )


class _Places(NamedTuple):
    """What a head that compares places found in one photo, for a class and its rival."""

    matches: tuple[Any, ...]  # `Matches` of each
    favour: tuple[Tensor, ...]  # [P]: how much better than the other each explains a place
    grid: tuple[int, int]  # of the photo
    support_grid: tuple[int, int]

    @property
    def heat(self) -> tuple[tuple[float, ...], ...]:
        """`favour` of the class over its largest size, row by row."""
        largest = float(self.favour[0].abs().max()) or 1.0
        rows = (self.favour[0] / largest).view(self.grid).tolist()
        return tuple(tuple(row) for row in rows)


def _places(
    columns: tuple[int, int | None], support: Support, conditioned: Any, features: Features
) -> _Places | None:
    if features.patches is None or not hasattr(conditioned, "matches"):
        return None
    found = tuple(conditioned.matches(features, support.names[c]) for c in columns if c is not None)
    distances = [matches.distance[0] for matches in found]  # [P] each
    if len(distances) == 1:  # no rival: places that the class explains better than the mean place
        favour: tuple[Tensor, ...] = (distances[0].mean() - distances[0],)
    else:
        favour = (distances[1] - distances[0], distances[0] - distances[1])
    grid = (features.patches.shape[1], features.patches.shape[2])
    return _Places(found, favour, grid, conditioned.grid)


def _patches(
    places: _Places, which: int, column: int, support: Support, files: list[str]
) -> tuple[MatchedPatch, ...]:
    """The places that speak most for a class, each with the support place that answered most for it."""
    found, rows = places.matches[which], _members(column, support).tolist()
    answers = [(int(s), int(p)) for s, p in zip(found.support[0, :, 0], found.position[0, :, 0], strict=True)]
    return tuple(
        MatchedPatch(
            _centre(place, places.grid),
            files[rows[answers[place][0]]],
            _centre(answers[place][1], places.support_grid),
            float(found.weight[0, place, 0]),
        )
        for place in _spread(places, which, answers)
    )


def _spread(places: _Places, which: int, answers: list[tuple[int, int]]) -> list[int]:
    """The places with the largest favour, none within `APART` steps of a stronger one on either photo.

    Args:
        answers: for each place which support answered most, and where in it.
    """
    wide, support_wide = places.grid[1], places.support_grid[1]
    chosen: list[int] = []

    def repeats(place: int, other: int) -> bool:
        (one, here), (another, there) = answers[place], answers[other]
        if math.dist(divmod(place, wide), divmod(other, wide)) <= APART:
            return True
        return one == another and math.dist(divmod(here, support_wide), divmod(there, support_wide)) <= APART

    for place in places.favour[which].argsort(descending=True, stable=True).tolist():
        if not any(repeats(place, other) for other in chosen):
            chosen.append(place)
        if len(chosen) == PATCHES:
            break
    return chosen


def _centre(position: int, grid: tuple[int, int]) -> tuple[float, float]:
    """(x, y) in [0, 1] of the middle of a patch, counted row by row."""
    height, width = grid
    return (position % width + 0.5) / width, (position // width + 0.5) / height
