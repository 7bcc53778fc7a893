"""Masks of a training batch, drawn as a function of (seed, step, photo): the same on any number of ranks.

The mathematics of each mask is in `fewsight.objectives.masking`; here they are drawn for every photo of every view.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy
import torch
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.distributed import rows_before
from fewsight.errors import InvalidInput
from fewsight.objectives.masking import block_masks, gmml_masks, grid_mask
from fewsight.objectives.objective import Batch
from fewsight.seeding import numpy_generator, torch_generator

__all__ = [
    "block_token_masks",
    "noise",
    "partners",
    "patch_grid",
    "photo_keys",
    "pixel_masks",
    "square_masks",
]


def patch_grid(backbone: Backbone, images: Tensor) -> tuple[int, int]:
    """Rows and columns of patches of images `[B, 3, H, W]`.

    Raises:
        InvalidInput: the backbone is no vision transformer, so that patches cannot be hidden.
    """
    if not backbone.depth:
        raise InvalidInput(
            f"{backbone.name} is no vision transformer: its patches cannot be hidden. Take an objective without masks "
            "(simclr, moco_v3, swav, dino) or a vision transformer."
        )
    return images.shape[2] // backbone.stride, images.shape[3] // backbone.stride


def photo_keys(batch: Batch, count: int) -> list[int]:
    """What the draws of each photo depend on: its place in the collection, or in the batch."""
    return list(range(count)) if batch.index is None else [int(place) for place in batch.index.tolist()]


def _generators(batch: Batch, count: int, stream: str, view: int) -> Iterator[numpy.random.Generator]:
    for key in photo_keys(batch, count):
        yield numpy_generator(batch.seed, stream, batch.step, view, key)


def block_token_masks(
    batch: Batch,
    images: Tensor,
    view: int,
    grid: tuple[int, int],
    *,
    none: float,
    ratio: tuple[float, float],
) -> Tensor:
    """iBOT's masks, bool `[B, h, w]`: with probability `none` nothing, else blocks over a share drawn from `ratio`.

    Source: Zhou et al. (ICLR 2022): ratio 0 or uniform in 0.1 to 0.5, half of the crops each.
    """
    drawn = []
    for generator in _generators(batch, len(images), "block mask", view):
        first, second = generator.random(2)
        share = 0.0 if first < none else ratio[0] + second * (ratio[1] - ratio[0])
        drawn.append(block_masks([share * grid[0] * grid[1]], grid, generator)[0])
    return torch.stack(drawn).bool().to(images.device)


def square_masks(
    batch: Batch, images: Tensor, *, mask_patch_size: int, patch_size: int, ratio: float
) -> Tensor:
    """SimMIM's masks, int `[B, h, w]`: squares of `mask_patch_size` pixels."""
    side = images.shape[-1]
    squares = (side // mask_patch_size) ** 2
    drawn = []
    for key in photo_keys(batch, len(images)):
        generator = torch_generator(batch.seed, "square mask", batch.step, key)
        order = torch.randperm(squares, generator=generator)
        drawn.append(grid_mask(order, side, mask_patch_size, patch_size, ratio))
    return torch.stack(drawn).to(images.device)


def noise(batch: Batch, images: Tensor, length: int) -> Tensor:
    """Uniform noise `[B, length]`, for MAE's random masking."""
    rows = [generator.random(length) for generator in _generators(batch, len(images), "patch noise", 0)]
    return torch.from_numpy(numpy.stack(rows)).float().to(images.device)


def pixel_masks(
    batch: Batch,
    images: Tensor,
    view: int,
    *,
    fractions: tuple[float, float],
    second: float,
    align: int,
    max_block: float,
) -> tuple[Tensor, Tensor]:
    """GMML's rectangles of pixels, and which photos take the second kind of corruption.

    Args:
        fractions: largest covered share of the first and of the second kind.
        second: probability of the second kind.

    Returns:
        mask bool `[B, H, W]`, and bool `[B]`, True = second kind.
    """
    size = images.shape[2], images.shape[3]
    kinds, masks = [], []
    for generator in _generators(batch, len(images), "pixel mask", view):
        kinds.append(bool(generator.random() < second))
        fraction = fractions[int(kinds[-1])]
        (mask,) = gmml_masks(
            1, size, generator, max_fraction=fraction, align=align, max_block=max_block
        ).unbind()
        masks.append(mask)
    return torch.stack(masks).bool().to(images.device), torch.tensor(kinds, device=images.device)


def partners(batch: Batch, images: Tensor, total: int, view: int) -> Tensor:
    """Another photo of the batch of all ranks for each photo `[B, ...]` here, never itself; itself in a batch of one.

    Args:
        total: photos of all ranks.

    Returns:
        int64 `[B]`, rows of the ranks' parts one after the other.
    """
    steps = [
        int(generator.integers(1, max(2, total)))
        for generator in _generators(batch, len(images), "partner", view)
    ]
    own = rows_before(images) + torch.arange(len(images))
    return ((own + torch.tensor(steps)) % total).to(images.device)
