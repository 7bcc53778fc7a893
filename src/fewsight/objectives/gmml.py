"""GMML: reconstruct the pixels of connected corrupted groups of tokens.

Atito, Awais, Kittler: GMML is All You Need (arXiv 2205.14986). Blocks of the input are overwritten by noise,
zeros or another image (`fewsight.objectives.masking.gmml_corrupt`); the loss looks at overwritten pixels only.

Differs from the authors' code: a batch without a corrupted pixel gives 0, not NaN.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fewsight.distributed import global_count
from fewsight.errors import InvalidInput
from fewsight.objectives.blocks import at_least_float32
from fewsight.objectives.ranges import check_choice

__all__ = ["masked_pixel_loss"]


def masked_pixel_loss(
    reconstruction: Tensor, image: Tensor, mask: Tensor, norm: Literal["l1", "l2"] = "l1"
) -> Tensor:
    """Mean absolute (`l1`) or squared (`l2`) error over all channels of all corrupted pixels, pooled.

    The mean runs over the corrupted pixels of the whole batch (of all ranks), not image by image first.

    Args:
        reconstruction: `[..., C, H, W]`, in normalised pixel units.
        image: the clean picture, same shape; carries no gradient.
        mask: `[..., H, W]` or `[..., 1, H, W]`, True or 1 = corrupted.

    Returns:
        Scalar; 0 where nothing is corrupted.

    Raises:
        InvalidInput: shapes that do not fit, an unknown norm.

    >>> masked_pixel_loss(torch.ones(3, 2, 2), torch.zeros(3, 2, 2), torch.eye(2)).item()
    1.0
    """
    check_choice(("l1", "l2"), norm=norm)
    if reconstruction.shape != image.shape or image.ndim < 3:
        raise InvalidInput(
            f"reconstruction has shape {list(reconstruction.shape)}; expected that of image, "
            f"{list(image.shape)}, as [..., C, H, W]."
        )
    if mask.ndim == image.ndim and mask.shape[-3] == 1:
        mask = mask.squeeze(-3)
    if mask.shape != (*image.shape[:-3], *image.shape[-2:]):
        raise InvalidInput(
            f"mask has shape {list(mask.shape)}; expected {list(image.shape)} without the channels."
        )
    corrupted = mask.bool().unsqueeze(-3)  # [..., 1, H, W]
    difference = at_least_float32(reconstruction) - at_least_float32(image.detach())
    # Selected, not multiplied: what stands in pixels that do not count may even be NaN.
    difference = torch.where(corrupted, difference, 0)
    error = difference.abs().sum() if norm == "l1" else difference.square().sum()
    count = global_count(corrupted.sum().to(error.dtype)) * image.shape[-3]
    # A rank may hold less than one corrupted pixel on average; an empty batch gives 0.
    return error / torch.where(count > 0, count, 1)
