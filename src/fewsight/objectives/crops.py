"""Multi-crop: which views an objective asks for, and views of one size encoded in one pass.

Caron et al. (SwAV, NeurIPS 2020), section 3.3: two large views and several small ones. Rows of a batch of views are
view-major: all images of view 0, then of view 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fewsight.backbones.backbone import Backbone, TokenMask
from fewsight.backbones.features import Features, pool
from fewsight.data.views import Pipeline, ViewSpec
from fewsight.errors import InvalidInput
from fewsight.objectives.objective import Batch

__all__ = [
    "checked_views",
    "crop_views",
    "encoded",
    "groups_of_one_size",
    "local_size",
    "patch_tokens",
    "token_rows",
    "vectors",
]


def local_size(backbone: Backbone, size: int | None) -> int:
    """Side of the small views: 3/7 of the large ones (96 of 224) in whole patches, unless given.

    Raises:
        InvalidInput: the patches of the backbone do not divide the side.
    """
    stride = backbone.stride
    if size is None:
        return max(1, round(backbone.image_size[0] * 3 / 7 / stride)) * stride
    if size % stride:
        raise InvalidInput(
            f"local_size is {size}, which the {stride} px patches of {backbone.name} do not divide; take "
            f"{max(1, round(size / stride)) * stride}."
        )
    return size


def crop_views(
    backbone: Backbone,
    pipelines: Sequence[Pipeline],
    scale: tuple[float, float],
    *,
    local: int = 0,
    size: int | None = None,
    local_pipeline: Pipeline = "dino_local",
    local_scale: tuple[float, float] = (0.05, 0.4),
) -> tuple[ViewSpec, ...]:
    """One large view for each pipeline, then `local` small ones of side `size`."""
    large = backbone.image_size[0]
    views = [ViewSpec(1, large, pipeline, scale) for pipeline in pipelines]
    if local:
        views.append(ViewSpec(local, local_size(backbone, size), local_pipeline, local_scale))
    return tuple(views)


def checked_views(batch: Batch, views: Sequence[ViewSpec]) -> tuple[Tensor, ...]:
    """The images of a batch, one tensor a view.

    Raises:
        InvalidInput: another number of views than was asked for, or views of different numbers of images.
    """
    wanted = sum(view.count for view in views)
    counts = {len(images) for images in batch.images}
    if len(batch.images) != wanted or len(counts) != 1 or 0 in counts:
        raise InvalidInput(
            f"the batch has {len(batch.images)} views of {sorted(counts)} images; the objective needs {wanted} views "
            "of the same images, one or more."
        )
    return batch.images


def groups_of_one_size(images: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Views that follow one another and have the same size, together."""
    group: list[Tensor] = []
    for view in images:
        if group and view.shape != group[0].shape:
            yield group
            group = []
        group.append(view)
    if group:
        yield group


def encoded(backbone: Backbone, images: Sequence[Tensor], mask: TokenMask | None = None) -> list[Features]:
    """Features of the views of each size, one pass for each; `mask` hides patches of the first size alone."""
    groups = enumerate(groups_of_one_size(images))
    return [
        backbone.features(torch.cat(group), mask=mask if number == 0 else None) for number, group in groups
    ]


def vectors(backbone: Backbone, images: Sequence[Tensor], mask: TokenMask | None = None) -> Tensor:
    """One vector for each image of each view, `[V B, D]`, view-major: the class token, or the mean of patches."""
    return torch.cat([pool(features, "cls") for features in encoded(backbone, images, mask)])


def patch_tokens(features: Features) -> Tensor:
    """Patch tokens `[B, h, w, D]`.

    Raises:
        InvalidInput: the backbone gives none.
    """
    if features.patches is None:
        raise InvalidInput("the backbone gives no patch tokens; expected a vision transformer.")
    return features.patches


def token_rows(features: Features, views: int) -> Tensor:
    """Patch tokens of `views` views of B images as rows, `[G, B, N, D]`."""
    return patch_tokens(features).flatten(1, 2).unflatten(0, (views, -1))
