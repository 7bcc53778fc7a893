"""Parts of a vision transformer that some methods keep as they started, or add."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.positions import sincos_position_embedding
from fewsight.backbones.vit import VisionTransformerBackbone
from fewsight.errors import InvalidInput

__all__ = ["fix_patch_projection", "fix_positions", "give_mask_token"]


def fix_patch_projection(backbone: Backbone) -> None:
    """Leave the patch embedding at its random start (MoCo-v3, section 4); other networks stay as they are."""
    embed = getattr(getattr(backbone, "model", None), "patch_embed", None)
    if isinstance(embed, nn.Module):
        embed.requires_grad_(False)


def fix_positions(backbone: Backbone) -> None:
    """Put sine-cosine positions in place of learnt ones and keep them (MAE, MoCo-v3).

    A network without an absolute table of positions stays as it is. The x half comes first in MoCo-v3's code and in
    MAE's; for the square grids of training that is a transposition of the other order.

    Raises:
        InvalidInput: the width is no multiple of 4.
    """
    model: Any = getattr(backbone, "model", None)
    table = getattr(model, "pos_embed", None)
    if not isinstance(table, nn.Parameter):
        return
    if backbone.dim % 4:
        raise InvalidInput(
            f"{backbone.name} is {backbone.dim} wide; sine-cosine positions need a multiple of 4."
        )
    grid = tuple(model.patch_embed.grid_size)
    prefix = table.shape[1] - grid[0] * grid[1]
    made = sincos_position_embedding(backbone.dim, grid)  # [h w, D]
    with torch.no_grad():
        table.zero_()
        table[0, prefix:] = made.to(table.dtype)
    table.requires_grad_(False)


def give_mask_token(backbone: Backbone, *, deviation: float = 0.02) -> None:
    """A trained token that stands for hidden patches, unless there is one; iBOT starts it at 0 (deviation 0).

    A token of zeros was never trained (distilled networks carry such): it starts anew.

    Raises:
        InvalidInput: the backbone is no vision transformer.
    """
    if isinstance(backbone, VisionTransformerBackbone) and backbone.mask_token is None:
        backbone.add_mask_token()
    token = getattr(backbone, "mask_token", None)
    if not isinstance(token, nn.Parameter):
        raise InvalidInput(f"{backbone.name} is no vision transformer: its patches cannot be hidden.")
    if deviation and not token.any():
        nn.init.trunc_normal_(token, std=deviation)
