"""Position tables of vision transformers: sine-cosine tables, and the rules for grids of another size.

The published networks differ in how they resample a learnt table, and features differ visibly with the rule, so
each checkpoint is read with the rule that it was made with:

    DINO, iBOT, DINOv2 without registers   bicubic, scale factors (h + 0.1) / n, no antialiasing
    DINOv2 with registers                  bicubic to the output size, antialiased
    MSN                                    bicubic, one scale factor sqrt(h w) / n, square grids only
    MAE                                    bicubic to the output size, no antialiasing
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["interpolate_position_embedding", "sincos_position_embedding"]


def interpolate_position_embedding(
    pos_embed: Tensor,
    grid: tuple[int, int],
    offset: float | Literal["msn"] = 0.1,
    antialias: bool = False,
    num_prefix: int = 1,
) -> Tensor:
    """Resample a square position table to a grid of patches.

    With an offset above 0 the scale factor `(h + offset) / n` is also what source coordinates are computed
    with: the grid is stretched by a tiny amount, which is part of the published features. A table whose grid is
    already (h, w) is returned as it is; one with as many patches in another shape is resampled.

    Source: facebookresearch/dino, `interpolate_pos_encoding`; DINOv2 (TMLR 2024); MSN (ECCV 2022).

    Args:
        pos_embed: `[1, P + n n, D]`, P prefix rows (class token, registers) first.
        grid: (h, w), rows and columns of patches.
        offset: 0 or above, or `msn`.
        antialias: published with offset 0 alone.
        num_prefix: P; prefix rows are kept as they are.

    Returns:
        `[1, P + h w, D]`, same dtype; 16-bit tables are resampled in float32.

    Raises:
        InvalidInput: a table that is not square, a grid or rule that does not fit.
    """
    check_shapes(pos_embed=(pos_embed, "1 L D"))
    (h, w), n = _grid(grid), _square_side(pos_embed.shape[1] - num_prefix, num_prefix)
    if (h, w) == (n, n):
        return pos_embed
    prefix, patches = pos_embed[:, :num_prefix], pos_embed[:, num_prefix:]
    table = patches.reshape(1, n, n, -1).permute(0, 3, 1, 2)  # [1, D, n, n]
    resampled = _resample(table, (h, w), offset, antialias).to(pos_embed.dtype)
    return torch.cat([prefix, resampled.permute(0, 2, 3, 1).reshape(1, h * w, -1)], dim=1)


def _resample(
    table: Tensor, grid: tuple[int, int], offset: float | Literal["msn"], antialias: bool
) -> Tensor:
    table = table if table.dtype in (torch.float32, torch.float64) else table.float()
    if offset == "msn":
        if grid[0] != grid[1]:
            raise InvalidInput(f"grid is {grid}; expected a square one, as the rule of MSN knows no other.")
        # On a square grid its factor sqrt(h w / (n n)) is the ratio of sizes.
        offset = 0.0
    if not isinstance(offset, (int, float)) or not (math.isfinite(offset) and offset >= 0):
        raise InvalidInput(f"offset is {offset!r}; expected 0 or above, or 'msn'.")
    if offset == 0:
        return F.interpolate(table, size=grid, mode="bicubic", antialias=antialias)
    n = table.shape[-1]
    factors = ((grid[0] + offset) / n, (grid[1] + offset) / n)
    resampled = F.interpolate(table, scale_factor=factors, mode="bicubic", antialias=antialias)
    if resampled.shape[-2:] != grid:
        raise InvalidInput(
            f"offset is {offset}, which gives a grid of {tuple(resampled.shape[-2:])} for {grid}."
        )
    return resampled


def sincos_position_embedding(dim: int, grid_size: tuple[int, int], cls_token: bool = False) -> Tensor:
    """Fixed two-dimensional sine-cosine table: the first half of the channels codes the column.

    A patch at row y and column x gets `[sin(x f), cos(x f), sin(y f), cos(y f)]` with the dim / 4 frequencies
    `f_i = 10000^(-4 i / dim)`. Token index runs row by row.

    Source: He et al., MAE (CVPR 2022); facebookresearch/mae, `util/pos_embed.py`.
    Differs from the authors' code: the grid need not be square.

    Args:
        dim: a multiple of 4.
        grid_size: (h, w).
        cls_token: whether a row of zeros stands first.

    Returns:
        `[h w (+ 1), dim]`, float32, computed in float64.

    Raises:
        InvalidInput: a width that is no multiple of 4, an empty grid.

    >>> sincos_position_embedding(4, (1, 2))
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0000, 1.0000]])
    """
    h, w = _grid(grid_size)
    if dim < 4 or dim % 4:
        raise InvalidInput(f"dim is {dim}; expected a multiple of 4.")
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (columns, rows)]
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    if cls_token:
        table = torch.cat([torch.zeros(1, dim, dtype=table.dtype), table])
    return table.float()


def _grid(grid: tuple[int, int]) -> tuple[int, int]:
    if len(grid) != 2 or min(grid) < 1 or any(int(side) != side for side in grid):
        raise InvalidInput(f"grid is {grid}; expected (rows, columns), whole numbers of 1 or more.")
    return int(grid[0]), int(grid[1])


def _square_side(patches: int, prefix: int) -> int:
    side = math.isqrt(max(0, patches))
    if prefix < 0 or side < 1 or side * side != patches:
        raise InvalidInput(
            f"pos_embed holds {patches} rows after num_prefix {prefix}; expected a square number of patches."
        )
    return side
