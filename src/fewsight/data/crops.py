"""Random crops of stored photos, resized to one size: the box of each photo is a function of its own random numbers.

Letters: B photos, H x W stored pixels.

The draw is that of torchvision 0.29 `RandomResizedCrop` (Szegedy et al. 2015): an area and an aspect ratio, ten tries
until the box fits, else the largest box of the nearest allowed aspect in the centre. Resizing is antialiased.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.errors import InvalidInput

__all__ = ["CROP_DRAWS", "Interpolation", "crop_and_resize", "random_boxes"]

Interpolation = Literal["bilinear", "bicubic"]
TRIES = 10
CROP_DRAWS = 2 * TRIES + 2  # random numbers that one box takes


def random_boxes(
    draws: NDArray[numpy.float64],
    size: tuple[int, int] | NDArray[numpy.int64],
    area: tuple[float, float],
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> NDArray[numpy.int64]:
    """Boxes as top, left, height, width in pixels, `[B, 4]`.

    Args:
        draws: uniform in [0, 1), `[B, CROP_DRAWS]`.
        size: height and width of the photos, or of each photo `[B, 2]`.
        area: smallest and largest share of the photo's area, in (0, 1].
        aspect: smallest and largest width over height.

    Raises:
        InvalidInput: a range is empty or outside what is allowed.

    >>> random_boxes(numpy.full((1, CROP_DRAWS), 0.5), (100, 100), (1.0, 1.0), (1.0, 1.0)).tolist()
    [[0, 0, 100, 100]]
    """
    if not 0 < area[0] <= area[1] <= 1:
        raise InvalidInput(f"area is {area}; expected two shares in (0, 1], the smaller first.")
    if not 0 < aspect[0] <= aspect[1]:
        raise InvalidInput(f"aspect is {aspect}; expected two ratios above 0, the smaller first.")
    B = len(draws)
    H, W = numpy.broadcast_to(numpy.asarray(size, numpy.int64), (B, 2)).T[:, :, None]  # [B, 1] each
    shares = area[0] + draws[:, :TRIES] * (area[1] - area[0])
    low, high = numpy.log(aspect)
    ratios = numpy.exp(low + draws[:, TRIES : 2 * TRIES] * (high - low))
    widths = numpy.rint(numpy.sqrt(H * W * shares * ratios)).astype(numpy.int64)  # [B, TRIES]
    heights = numpy.rint(numpy.sqrt(H * W * shares / ratios)).astype(numpy.int64)
    fits = (widths >= 1) & (widths <= W) & (heights >= 1) & (heights <= H)
    first = fits.argmax(1)
    found, rows = fits.any(1), numpy.arange(B)
    height, width = heights[rows, first], widths[rows, first]
    for row in numpy.flatnonzero(~found).tolist():
        height[row], width[row] = _centre_box((int(H[row, 0]), int(W[row, 0])), aspect)
    free = numpy.stack([H[:, 0] - height, W[:, 0] - width], axis=1)
    place = numpy.floor(draws[:, -2:] * (free + 1)).astype(numpy.int64)
    return numpy.column_stack([numpy.where(found[:, None], place, free // 2), height, width])


def _centre_box(size: tuple[int, int], aspect: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest box whose aspect is allowed and nearest to the photo's."""
    H, W = size
    narrowest, widest = aspect
    if narrowest * H > W:
        return max(1, min(H, round(W / narrowest))), W
    if widest * H < W:
        return H, max(1, min(W, round(H * widest)))
    return H, W


def crop_and_resize(
    pixels: Tensor | Sequence[Tensor],
    boxes: NDArray[numpy.int64],
    size: tuple[int, int],
    interpolation: Interpolation = "bicubic",
) -> Tensor:
    """The boxes of the photos at one size.

    Args:
        pixels: uint8 `[B, 3, H, W]` on any device, or B photos uint8 `[3, H_b, W_b]`; not changed.
        boxes: top, left, height, width, `[B, 4]`.
        size: height and width in pixels.

    Returns:
        uint8 `[B, 3, *size]`, rounded and clipped to whole grey levels as image libraries do.
    """
    device = pixels[0].device if len(pixels) else torch.device("cpu")
    out = torch.empty((len(boxes), 3, *size), dtype=torch.uint8, device=device)
    for row, (top, left, height, width) in enumerate(boxes.tolist()):
        part = pixels[row][:, top : top + height, left : left + width]
        out[row] = part if (height, width) == size else _resized(part, size, interpolation)
    return out


def _resized(part: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """One uint8 crop; the processor has a fast uint8 kernel, other devices compute in float32."""
    if part.device.type == "cpu":
        return torch.nn.functional.interpolate(part[None], size, mode=interpolation, antialias=True)[0]
    resized = torch.nn.functional.interpolate(part[None].float(), size, mode=interpolation, antialias=True)
    return resized[0].round_().clamp_(0, 255).to(torch.uint8)
