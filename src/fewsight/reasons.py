"""Why a photo got its label: the nearest support photos, and the patches that matched where a head compares patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewsight.backbones.features import Features
from fewsight.heads.head import Support
from fewsight.predictions import Explanation, MatchedPatch, SupportMatch

__all__ = ["explanation"]

NEAREST = 3  # support photos of a class
PATCHES = 12  # matched patches, those with the largest share of attention


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
    return Explanation(
        support.names[column],
        "" if rival is None else support.names[rival],
        _nearest(similarity, column, support, files),
        () if rival is None else _nearest(similarity, rival, support, files),
        _patches(column, support, files, conditioned, features),
    )


def _members(column: int, support: Support) -> Tensor:
    return support.membership[:, column].nonzero()[:, 0]


def _nearest(similarity: Tensor, column: int, support: Support, files: list[str]) -> tuple[SupportMatch, ...]:
    inside = _members(column, support)
    order = inside[similarity[inside].argsort(descending=True, stable=True)][:NEAREST]
    return tuple(
        SupportMatch(files[row], support.names[column], float(similarity[row])) for row in order.tolist()
    )


def _patches(
    column: int, support: Support, files: list[str], conditioned: Any, features: Features
) -> tuple[MatchedPatch, ...]:
    if features.patches is None or not hasattr(conditioned, "matches"):
        return ()
    found = conditioned.matches(features, support.names[column])
    weight = found.weight[0, :, 0]  # [P]
    rows = _members(column, support).tolist()
    return tuple(
        MatchedPatch(
            _centre(patch, (features.patches.shape[1], features.patches.shape[2])),
            files[rows[int(found.support[0, patch, 0])]],
            _centre(int(found.position[0, patch, 0]), conditioned.grid),
            float(weight[patch]),
        )
        for patch in weight.argsort(descending=True, stable=True)[:PATCHES].tolist()
    )


def _centre(position: int, grid: tuple[int, int]) -> tuple[float, float]:
    """(x, y) in [0, 1] of the middle of a patch, counted row by row."""
    height, width = grid
    return (position % width + 0.5) / width, (position // width + 0.5) / height
