"""Gaussian blur of batches of pictures, with a standard deviation for each: products with banded matrices.

Letters: B pictures, C channels, H x W pixels.

A blurred row is the row times a matrix that holds the kernel and what happens at the border. Away from the borders all
its rows are one kernel shifted, so that a small matrix (its two corners and one block between them) stands for the
whole. Blocks of 32 pixels need the pixels within reach alone: for 224 pixels and 23 taps a quarter of the work.

Sources: torchvision 0.29 `gaussian_blur` (`reflect`); SimCLR (ICML 2020), appendix A (`zeros`); Pillow 13
`GaussianBlur` (`pil`), three box blurs, applied as one product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fewsight.errors import InvalidInput

__all__ = ["Padding", "gaussian_blur"]

Padding = Literal["reflect", "zeros", "pil"]
BLOCK = 32  # pixels that are made by one product


def gaussian_blur(values: Tensor, sigmas: Tensor, kernel_size: int | None, padding: Padding) -> Tensor:
    """Blur rows, then columns.

    Args:
        values: floats `[B, C, H, W]`; not changed.
        sigmas: standard deviations in pixels, above 0, `[B]`.
        kernel_size: odd; None with padding `pil`.
        padding: beyond the border: `reflect`, `zeros`, or `pil` (the edge repeated).

    Returns:
        `[B, C, H, W]`, its memory in the order B, H, C, W.

    Raises:
        InvalidInput: the kernel does not suit the padding or the picture.
    """
    B, C, H, W = values.shape
    with torch.autocast(values.device.type, enabled=False):
        down = _band(H, sigmas, kernel_size, padding)
        across = down if H == W else _band(W, sigmas, kernel_size, padding)
        rows, blurred = values.flatten(1, 2), values.new_empty(B, H, C, W)
        for block, near, matrix in across.blocks():
            product = torch.bmm(rows[..., near], matrix.mT)
            blurred[..., block] = product.view(B, C, H, -1).transpose(1, 2)
        columns, both = blurred.flatten(2), values.new_empty(B, H, C * W)
        for block, near, matrix in down.blocks():
            torch.bmm(matrix, columns[:, near], out=both[:, block])
    return both.view(B, H, C, W).transpose(1, 2)


class _Band(NamedTuple):
    """A banded matrix of `side` rows by a smaller one `[B, s, s]` with the same corners and rows between them."""

    matrix: Tensor
    side: int
    reach: int

    def blocks(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Rows of a block, columns within their reach, and the part of the matrix that joins them."""
        side, reach, s = self.side, self.reach, self.matrix.shape[1]
        step = _block(reach)
        for first in range(0, side, step):
            last = min(side, first + step)
            low, high = max(0, first - reach), min(side, last + reach)
            shift = first - reach  # rows between the corners
            if first < reach:
                shift = 0
            elif last > side - reach:
                shift = side - s
            part = self.matrix[:, first - shift : last - shift, low - shift : high - shift]
            yield slice(first, last), slice(low, high), part


def _block(reach: int) -> int:
    return max(BLOCK, 2 * reach)


def _band(side: int, sigmas: Tensor, kernel_size: int | None, padding: Padding) -> _Band:
    if padding == "pil":
        if kernel_size is not None:
            raise InvalidInput(f"kernel_size is {kernel_size}; expected None with padding 'pil'.")
        return _boxes(side, sigmas)
    if padding not in ("reflect", "zeros"):
        raise InvalidInput(f"padding is {padding!r}; expected 'reflect', 'zeros' or 'pil'.")
    if kernel_size is None or kernel_size < 1 or kernel_size % 2 == 0:
        raise InvalidInput(f"kernel_size is {kernel_size}; expected an odd number of pixels.")
    if padding == "reflect" and kernel_size // 2 >= side:
        raise InvalidInput(
            f"kernel_size is {kernel_size} for {side} pixels; expected a radius below the side."
        )
    return _taps(side, sigmas, kernel_size // 2, padding)


def _taps(side: int, sigmas: Tensor, radius: int, padding: Padding) -> _Band:
    """A sampled Gaussian of `2 radius + 1` taps around each pixel.

    Taps so far out that their weight is below the rounding of the sum are left out.
    """
    lost = math.sqrt(-2 * math.log(torch.finfo(sigmas.dtype).eps / 16))  # standard deviations
    radius = min(radius, math.ceil(lost * float(sigmas.max())))
    s = min(side, _block(radius) + 2 * radius)
    steps = torch.arange(-radius, radius + 1, device=sigmas.device)
    weights = torch.softmax(-0.5 * (steps / sigmas[:, None]).square(), dim=1)  # [B, taps]
    sources = torch.arange(s, device=sigmas.device)[:, None] + steps  # [s, taps]
    inside = (sources >= 0) & (sources < s)
    sources = (s - 1 - (s - 1 - sources.abs()).abs()) if padding == "reflect" else sources.clamp(0, s - 1)
    taps = weights[:, None] * (inside | (padding == "reflect"))
    matrix = sigmas.new_zeros(len(sigmas), s, s)
    matrix.scatter_add_(2, sources.expand(len(sigmas), -1, -1), taps.expand(-1, s, -1))
    return _Band(matrix, side, radius)


def _boxes(side: int, sigmas: Tensor) -> _Band:
    """Pillow's approximation of a Gaussian, three box blurs with edges repeated.

    A box of half-width `whole + part` weighs the pixels up to `whole` away alike and the next ones by `part`; the
    variance of three such boxes is that of the Gaussian (Gwosdek et al., SSVM 2011).
    """
    variance = sigmas.square() / 3
    whole = torch.floor((torch.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1).square()))
    radius = int(whole.max()) + 1
    reach = 3 * radius
    s = min(side, _block(reach) + 2 * reach)
    steps = torch.arange(-radius, radius + 1, device=sigmas.device)
    distance = steps.abs() - whole[:, None]  # [B, taps]
    weights = torch.where(distance <= 0, 1, torch.where(distance <= 1, part[:, None], 0))
    weights = weights / (2 * (whole + part) + 1)[:, None]
    sources = (torch.arange(s, device=sigmas.device)[:, None] + steps).clamp(0, s - 1)
    box = sigmas.new_zeros(len(sigmas), s, s)
    box.scatter_add_(2, sources.expand(len(sigmas), -1, -1), weights[:, None].expand(-1, s, -1))
    return _Band(box @ box @ box, side, reach)
