"""What CST reads of a support image: a reduced grid of unit vectors, and which of them its mask shows.

Kang, Koniusz, Cho and Murray, "Distilling Self-Supervised Vision Transformers for Weakly-Supervised Few-Shot
Classification and Segmentation", CVPR 2023. The letters are those of `correlation.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["covered_tokens", "directions_of", "seen_tokens", "support_directions"]


def support_directions(
    support_cls: Tensor, support_patches: Tensor, *, heads: int, support_grid: tuple[int, int]
) -> Tensor:
    """Unit vectors of the class token and the reduced patch grid, [B, n·L, 1 + gh·gw, d].

    The patch map is resized bilinearly with corners aligned and no antialiasing, raw vectors first and unit
    length after, as published: most patches of a fine grid are never read.

    Raises:
        InvalidInput: shapes do not fit, heads does not divide D, or the grid is empty.
    """
    sizes = check_shapes(support_cls=(support_cls, "B L D"), support_patches=(support_patches, "B L h w D"))
    B, L, D = sizes["B"], sizes["L"], sizes["D"]
    if min(support_grid) < 1:
        raise InvalidInput(f"support_grid is {tuple(support_grid)}; expected at least (1, 1).")
    maps = support_patches.flatten(0, 1).permute(0, 3, 1, 2)  # [B·L, D, h, w]
    maps = F.interpolate(maps, size=tuple(support_grid), mode="bilinear", align_corners=True)
    patches = maps.flatten(2).transpose(1, 2).reshape(B, L, -1, D)
    return directions_of(torch.cat([support_cls[:, :, None], patches], dim=2), heads)


def directions_of(vectors: Tensor, heads: int) -> Tensor:
    """[B, L, T, D] -> [B, n·L, T, d] of unit length (norm floor 1e-12), head-major."""
    B, L, T, D = vectors.shape
    if heads < 1 or D % heads:
        raise InvalidInput(f"heads is {heads}; expected a divisor of the width {D}.")
    split = F.normalize(vectors.reshape(B, L, T, heads, D // heads), dim=-1, eps=1e-12)
    return split.permute(0, 3, 1, 2, 4).reshape(B, heads * L, T, D // heads)


def seen_tokens(support_mask: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """Which support tokens a mask lets through: the published point sampling, bool [B, gh·gw].

    The authors resize the mask bilinearly with corners aligned and keep what is not 0. So token i reads the
    point i·(H - 1)/(gh - 1): its row and, only where that is not an integer, the next one; columns alike. In
    integers that is exact, where float32 weights of 1e-6 may tip the authors' last point. Objects between
    points vanish; `covered_tokens` does not lose them.

    Args:
        support_mask: 0 = background, anything else = foreground, any dtype, [B, H, W] in pixels.
        grid: (gh, gw).

    Raises:
        InvalidInput: not three axes, no pixels, or an empty grid.

    >>> seen_tokens(torch.eye(5)[None], grid=(2, 2)).tolist()
    [[True, False, False, True]]
    """
    foreground = _foreground(support_mask, grid)
    rows = _points(foreground.shape[1], grid[0], foreground.device)
    columns = _points(foreground.shape[2], grid[1], foreground.device)
    near = foreground[:, rows].any(2)[:, :, columns]  # [B, gh, gw, 2]
    return near.any(3).flatten(1)


def covered_tokens(support_mask: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """As `seen_tokens`, but a token is kept where any pixel of its cell is foreground.

    Cell i of g covers pixels floor(i·H/g) to ceil((i + 1)·H/g) - 1.
    Differs from the published rule, which samples points; small objects stay visible.
    """
    foreground = _foreground(support_mask, grid)
    return F.adaptive_max_pool2d(foreground.float()[:, None], tuple(grid))[:, 0].flatten(1) > 0


def _foreground(support_mask: Tensor, grid: tuple[int, int]) -> Tensor:
    sizes = check_shapes(support_mask=(support_mask, "B H W"))
    if min(sizes["H"], sizes["W"]) < 1 or min(grid) < 1:
        raise InvalidInput(
            f"support_mask has shape {list(support_mask.shape)} and grid is {tuple(grid)}; expected pixels and "
            "at least one cell."
        )
    return support_mask != 0


def _points(size: int, cells: int, device: torch.device) -> Tensor:
    """First and second pixel that each of `cells` points reads, [cells, 2] (equal on an integer point)."""
    if cells == 1:
        return torch.zeros(1, 2, dtype=torch.int64, device=device)
    scaled = torch.arange(cells, device=device) * (size - 1)
    low = scaled // (cells - 1)
    return torch.stack([low, low + (scaled % (cells - 1) != 0)], dim=1)
