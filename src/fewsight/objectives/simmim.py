"""SimMIM: predict raw pixels of masked squares with one linear layer.

Xie, Zhang, Cao, Lin, Bao, Yao, Dai, Hu: SimMIM: A Simple Framework for Masked Image Modeling (CVPR 2022),
section 3. Masked tokens are replaced in the encoder; the loss is absolute error on masked pixels.

    L = sum(|x - x'| M) / ((sum(M) + 1e-5) C),  M the token mask repeated to pixels
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewsight.distributed import global_count, world_size
from fewsight.errors import InvalidInput
from fewsight.objectives.blocks import at_least_float32
from fewsight.shapes import check_shapes

__all__ = ["simmim_loss"]


def simmim_loss(images: Tensor, reconstruction: Tensor, mask: Tensor, patch_size: int) -> Tensor:
    """Mean absolute error of masked pixels over the whole batch (of all ranks).

    Args:
        images: `[B, C, H, W]`, normalised input; carries no gradient.
        reconstruction: same shape.
        mask: `[B, H/p, W/p]`, 1 = masked.
        patch_size: p, pixels per mask cell and side.

    Returns:
        Scalar; 0 for an empty mask.

    Raises:
        InvalidInput: shapes that do not fit.

    >>> simmim_loss(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4), torch.eye(2)[None], 2).item() > 0.999
    True
    """
    sizes = check_shapes(
        images=(images, "B C H W"), reconstruction=(reconstruction, "B C H W"), mask=(mask, "B h w")
    )
    p = patch_size
    if p < 1 or (sizes["h"] * p, sizes["w"] * p) != (sizes["H"], sizes["W"]):
        raise InvalidInput(
            f"mask has shape {list(mask.shape)} at patch_size {p}; expected {sizes['H']} x {sizes['W']} pixels."
        )
    masked = mask.bool().repeat_interleave(p, dim=1).repeat_interleave(p, dim=2)[:, None]  # [B, 1, H, W]
    difference = at_least_float32(reconstruction) - at_least_float32(images.detach())
    error = torch.where(masked, difference, 0).abs().sum()
    count = global_count(masked.sum().to(error.dtype) + 1e-5 / world_size())
    return error / (count * sizes["C"])
