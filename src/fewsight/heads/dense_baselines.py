"""What a dense head must beat: the whole image, a threshold on similarity, and prototypes of patches.

Each takes a support and a query and gives presence [N] and foreground [N, H, W] on the scale of dense heads: above 0.5
(from 0.5 on) means yes. They are references for protocols, not methods to be used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.backbones.features import Features
from fewsight.errors import InvalidInput
from fewsight.heads.dense_matching import weighted_means
from fewsight.heads.head import Segmented, Support
from fewsight.heads.pseudo_masks import support_prior

__all__ = ["patch_prototypes", "thresholded_similarity", "whole_image"]


def whole_image(support: Support, query: Features, size: tuple[int, int]) -> Segmented:
    """Every class is present; every pixel is of the first one."""
    Q, N = query.num_images, len(support.names)
    return Segmented(torch.ones(Q, N), torch.ones(Q, N, *size))


def thresholded_similarity(
    support: Support, query: Features, size: tuple[int, int], *, level: float
) -> Segmented:
    """Cosine to the mean foreground patch of each class, from `level` on; present where any patch is above it.

    Args:
        level: in (-1, 1), a property of the backbone.
    """
    foreground, _ = _prototypes(support)
    cosines = F.normalize(_patches(query), dim=-1) @ foreground.T  # [Q, h, w, N]
    return _enlarged(cosines.permute(0, 3, 1, 2) - level + 0.5, size)


def patch_prototypes(support: Support, query: Features, size: tuple[int, int]) -> Segmented:
    """Nearer to the mean foreground patch of a class than to the mean background patch of all supports."""
    foreground, background = _prototypes(support)
    unit = F.normalize(_patches(query), dim=-1)
    margin = (unit @ foreground.T - unit @ background[:, None]).permute(0, 3, 1, 2)
    return _enlarged(margin + 0.5, size)


def _prototypes(support: Support) -> tuple[Tensor, Tensor]:
    """Unit vectors of the classes [N, D], and of the background [D]."""
    patches = _patches(support.features)
    prior, _ = support_prior(support, patches)  # [S, N, P]
    tokens = patches.flatten(1, 2).flatten(0, 1)
    weights = prior.transpose(0, 1).flatten(1)  # [N, S·P]
    background = (1 - prior.amax(1)).flatten()[None]
    return weighted_means(tokens, weights), weighted_means(tokens, background)[0]


def _patches(features: Features) -> Tensor:
    if features.patches is None:
        raise InvalidInput("the features hold no patches; dense baselines need a backbone with a patch grid.")
    return features.patches.float()


def _enlarged(maps: Tensor, size: tuple[int, int]) -> Segmented:
    presence = maps.amax((2, 3))
    return Segmented(presence, F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False))
