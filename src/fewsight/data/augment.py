"""Photometric operations on batches of pictures, with one factor for each picture.

uint8 pictures are treated as Pillow does, operation by operation: values are clipped and rounded after each.
Floats in [0, 1] take the same formulas without rounding. `factor` arguments are numbers, or tensors `[B]`.

    solarize       v >= threshold becomes 255 - v                        grayscale    ITU-R 601 luma, three channels
    brightness     f v                                                   hflip        columns mirrored
    contrast       f v + (1 - f) mean grey of the picture                hue          turned on the colour circle
    saturation     f v + (1 - f) grey of the pixel                       gaussian_blur

Sources: Pillow 13 `ImageOps`, `ImageEnhance`, `ImageFilter.GaussianBlur` (three box blurs); torchvision 0.29
`gaussian_blur`; SimCLR (ICML 2020), appendix A. Differs from them: Pillow's blur is applied as one product of its
three box filters, without rounding in between (at most 2 grey levels apart).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["Operation", "Padding", "photometric"]

Operation = Literal[
    "solarize", "grayscale", "hflip", "brightness", "contrast", "saturation", "hue", "gaussian_blur"
]
Padding = Literal["reflect", "zeros", "pil"]
Factor = float | Tensor

# Shares of red, green and blue in grey, in 1/65536 as Pillow has them.
LUMA = (19595, 38470, 7471)


def photometric(images: Tensor, operation: Operation, **factors: Factor | Padding | None) -> Tensor:
    """Apply one operation to a batch.

    Args:
        images: `[B, 3, H, W]`, uint8, or float in [0, 1]; not changed.
        operation: `solarize` (threshold on the 0-255 scale), `grayscale`, `hflip`, `brightness`, `contrast`,
            `saturation` (factor, 0 or above), `hue` (factor in turns, -0.5 to 0.5), or `gaussian_blur` (sigma
            in pixels; kernel_size, odd; padding `reflect` (torchvision, DINOv2), `zeros` (SimCLR: borders
            darken) or `pil` (kernel_size None, edges repeated)).
        factors: of the operation; numbers or tensors `[B]`.

    Returns:
        Same shape and type.

    Raises:
        InvalidInput: pictures of another kind, an unknown operation, factors missing, unknown or out of range.

    >>> photometric(torch.full((1, 3, 1, 1), 200, dtype=torch.uint8), "solarize", threshold=128).flatten()
    tensor([55, 55, 55], dtype=torch.uint8)
    """
    check_shapes(images=(images, "B 3 H W"))
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InvalidInput(f"images are {images.dtype}; expected uint8, or float in [0, 1].")
    if operation not in OPERATIONS:
        raise InvalidInput(f"operation is {operation!r}; expected one of {', '.join(OPERATIONS)}.")
    function, wanted, optional = OPERATIONS[operation]
    if set(factors) - wanted - optional or wanted - set(factors):
        raise InvalidInput(
            f"{operation} was given {sorted(factors)}; expected {sorted(wanted)}"
            + (f" and, if wanted, {sorted(optional)}." if optional else ".")
        )
    return function(images, **factors)


def _solarize(images: Tensor, *, threshold: Factor) -> Tensor:
    limit = _column(images, "threshold", threshold, 0, 256)
    if images.dtype == torch.uint8:
        return torch.where(images >= limit, 255 - images, images)
    return torch.where(images >= limit.to(images.dtype) / 255, 1 - images, images)


def _grayscale(images: Tensor) -> Tensor:
    return _grey(images).expand(-1, 3, -1, -1).contiguous()


def _hflip(images: Tensor) -> Tensor:
    return images.flip(-1)


def _brightness(images: Tensor, *, factor: Factor) -> Tensor:
    return _blend(images, torch.zeros((), dtype=images.dtype, device=images.device), factor)


def _contrast(images: Tensor, *, factor: Factor) -> Tensor:
    mean = _working(_grey(images)).mean(dim=(1, 2, 3), keepdim=True)
    return _blend(images, torch.floor(mean + 0.5) if images.dtype == torch.uint8 else mean, factor)


def _saturation(images: Tensor, *, factor: Factor) -> Tensor:
    return _blend(images, _grey(images), factor)


def _hue(images: Tensor, *, factor: Factor) -> Tensor:
    """Turn the hue by a share of the circle; saturation and value stay.

    Source: Smith, Color gamut transform pairs (SIGGRAPH 1978), in a closed form: with value v, chroma c and hue h
    in sixths of the circle, red is `v - c clip(2 - |h - 3|)`, green `v - c clip(|h - 2| - 1)` and blue
    `v - c clip(|h - 4| - 1)`, clipped to [0, 1].
    """
    turn = _column(images, "factor", factor, -0.5, 0.5)[:, 0]  # [B, 1, 1]
    values = _working(images)
    planes = values.unbind(dim=1)
    value = torch.maximum(torch.maximum(planes[0], planes[1]), planes[2])  # [B, H, W]
    chroma = value - torch.minimum(torch.minimum(planes[0], planes[1]), planes[2])
    if images.dtype == torch.uint8:
        hue, chroma = _pillow_hue(planes, turn, value, chroma)
    else:
        hue = _continuous_hue(planes, turn, value, chroma)
    turned = torch.empty_like(values)
    for channel, center in enumerate((3, 2, 4)):
        share = (hue - center).abs_()
        share = torch.sub(2, share, out=share) if channel == 0 else share.sub_(1)
        torch.addcmul(value, chroma, share.clamp_(0, 1), value=-1, out=turned[:, channel])
    return _as_input(turned.add_(0.5) if images.dtype == torch.uint8 else turned, images)


def _continuous_hue(planes: Sequence[Tensor], turn: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    """Turned hue `[B, H, W]` in [0, 6]; of no meaning for grey pixels."""
    red, green, blue = planes
    # Differences over the chroma; multiples of it stand for the sixths 2 and 4. Choosing by `lerp` with 0 or 1 is
    # exact, and many times as fast as `where` on a processor.
    hue = (red - green).add_(chroma, alpha=4)
    hue.lerp_((blue - red).add_(chroma, alpha=2), (green == value).to(hue.dtype))
    hue.lerp_(green - blue, (red == value).to(hue.dtype))
    hue.div_(chroma.clamp(min=torch.finfo(chroma.dtype).tiny)).add_(6 * turn)
    return hue.sub_((hue / 6).floor_(), alpha=6)


def _pillow_hue(
    planes: Sequence[Tensor], turn: Tensor, value: Tensor, chroma: Tensor
) -> tuple[Tensor, Tensor]:
    """Hue and chroma as Pillow has them: hue turned on 256 steps of 1/255 circle, saturation cut to 1/255.

    Precisions alternate as in its code, since a step of 1/255 hangs on the last bit.
    """
    divisor = torch.where(chroma > 0, chroma, 1)
    red, green, blue = (((value - plane) / divisor).double() for plane in planes)
    hue = torch.where(green == 0, 2 + red - blue, 4 + green - red)
    hue = torch.where(red == 0, blue - green, hue)
    hue = torch.where(chroma > 0, hue, 0).float().double()
    share = torch.remainder(hue / 6 + 1, 1).float().double()
    steps = torch.floor(share * 255).float() + torch.trunc(turn * 255)
    saturation = torch.floor((chroma / value.clamp(min=1)).double() * 255).float() / 255
    return torch.remainder(steps, 256) * (6 / 255), value * saturation


def _gaussian_blur(
    images: Tensor, *, sigma: Factor, kernel_size: int | None = None, padding: Padding = "pil"
) -> Tensor:
    """Blur each row and column by a banded matrix that holds the kernel and what happens at the border."""
    sigmas = _column(images, "sigma", sigma, 0, math.inf).flatten()
    if bool((sigmas <= 0).any() | sigmas.isinf().any()):
        raise InvalidInput(f"sigma is {sigma}; expected finite numbers above 0.")
    sigmas = sigmas.expand(len(images)).to(_working(images[:0]).dtype)
    H, W = images.shape[-2:]
    rows, reach = _blur_matrix(H, sigmas, kernel_size, padding)
    columns = rows if H == W else _blur_matrix(W, sigmas, kernel_size, padding)[0]
    with torch.autocast(images.device.type, enabled=False):
        blurred = _times_band(_working(images).flatten(1, 2), columns, reach).view(images.shape)
        for channel in blurred.unbind(dim=1):
            channel.copy_(_band_times(rows, reach, channel))
    return _as_input(blurred + 0.5, images) if images.dtype == torch.uint8 else blurred.to(images.dtype)


def _times_band(left: Tensor, band: Tensor, reach: int) -> Tensor:
    """`left @ band.mT` for `[B, M, side]` and `[B, side, side]` that is 0 further than `reach` from its diagonal.

    Blocks of columns need only the rows within reach of them: for 224 pixels and a kernel of 23 a third of the work.
    """
    side, block = band.shape[1], max(32, 2 * reach)
    product = left.new_empty(left.shape)
    for first in range(0, side, block):
        last = min(side, first + block)
        low, high = max(0, first - reach), min(side, last + reach)
        product[..., first:last] = left[..., low:high] @ band[:, first:last, low:high].mT
    return product


def _band_times(band: Tensor, reach: int, right: Tensor) -> Tensor:
    """`band @ right` for `[B, side, side]` and `[B, side, M]`, as `_times_band`."""
    side, block = band.shape[1], max(32, 2 * reach)
    product = right.new_empty(right.shape)
    for first in range(0, side, block):
        last = min(side, first + block)
        low, high = max(0, first - reach), min(side, last + reach)
        torch.bmm(band[:, first:last, low:high], right[:, low:high], out=product[:, first:last])
    return product


def _blur_matrix(side: int, sigmas: Tensor, kernel_size: int | None, padding: Padding) -> tuple[Tensor, int]:
    """`[B, side, side]`: a sampled Gaussian of `kernel_size` taps around each pixel, or Pillow's boxes; its reach."""
    if padding == "pil":
        if kernel_size is not None:
            raise InvalidInput(f"kernel_size is {kernel_size}; expected None with padding 'pil'.")
        return _box_matrix(side, sigmas)
    if padding not in ("reflect", "zeros"):
        raise InvalidInput(f"padding is {padding!r}; expected 'reflect', 'zeros' or 'pil'.")
    if kernel_size is None or kernel_size < 1 or kernel_size % 2 == 0:
        raise InvalidInput(f"kernel_size is {kernel_size}; expected an odd number of pixels.")
    radius = kernel_size // 2
    if padding == "reflect" and radius >= side:
        raise InvalidInput(
            f"kernel_size is {kernel_size} for {side} pixels; expected a radius below the side."
        )
    steps = torch.arange(-radius, radius + 1, device=sigmas.device)
    weights = torch.softmax(-0.5 * (steps / sigmas[:, None]).square(), dim=1)  # [B, kernel_size]
    sources = torch.arange(side, device=sigmas.device)[:, None] + steps  # [side, kernel_size]
    inside = (sources >= 0) & (sources < side)
    sources = (
        (side - 1 - (side - 1 - sources.abs()).abs()) if padding == "reflect" else sources.clamp(0, side - 1)
    )
    taps = weights[:, None] * (inside | (padding == "reflect"))
    matrix = sigmas.new_zeros(len(sigmas), side, side)
    return matrix.scatter_add_(2, sources.expand(len(sigmas), -1, -1), taps.expand(-1, side, -1)), radius


def _box_matrix(side: int, sigmas: Tensor) -> tuple[Tensor, int]:
    """`[B, side, side]`: Pillow's approximation of a Gaussian, three box blurs with edges repeated; its reach.

    A box of half-width `whole + part` weighs the pixels up to `whole` away alike and the next ones by `part`; the
    variance of three such boxes is that of the Gaussian (Gwosdek et al., SSVM 2011).
    """
    variance = sigmas.square() / 3
    whole = torch.floor((torch.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1).square()))
    radius = int(whole.max()) + 1
    steps = torch.arange(-radius, radius + 1, device=sigmas.device)
    distance = steps.abs() - whole[:, None]  # [B, taps]
    weights = torch.where(distance <= 0, 1, torch.where(distance <= 1, part[:, None], 0))
    weights = weights / (2 * (whole + part) + 1)[:, None]
    sources = (torch.arange(side, device=sigmas.device)[:, None] + steps).clamp(0, side - 1)
    box = sigmas.new_zeros(len(sigmas), side, side)
    box.scatter_add_(2, sources.expand(len(sigmas), -1, -1), weights[:, None].expand(-1, side, -1))
    twice = _times_band(box, box.mT, 2 * radius)  # box @ box; its rows reach twice as far
    return _times_band(twice, box.mT, 3 * radius), 3 * radius


def _grey(images: Tensor) -> Tensor:
    """Luma `[B, 1, H, W]`; uint8 is rounded in fixed point as Pillow does."""
    if images.dtype == torch.uint8:
        red, green, blue = (weight * images[:, [i]].int() for i, weight in enumerate(LUMA))
        return ((red + green + blue + 32768) >> 16).to(torch.uint8)
    values = _working(images)
    grey = values[:, :1] * (LUMA[0] / 65536)
    for channel in (1, 2):
        grey.add_(values[:, channel : channel + 1], alpha=LUMA[channel] / 65536)
    return grey.to(images.dtype)


def _blend(images: Tensor, other: Tensor, factor: Factor) -> Tensor:
    """`factor * images + (1 - factor) * other`, clipped to the range of the type."""
    share = _column(images, "factor", factor, 0, sys.float_info.max)
    other = _working(other)
    if images.dtype == torch.uint8:  # Pillow's order of rounding
        return _as_input(other + share.to(other.dtype) * (_working(images) - other), images)
    return _as_input(torch.lerp(other, _working(images), share.to(other.dtype)), images)


def _as_input(values: Tensor, images: Tensor) -> Tensor:
    """Clip to the range of the input's type; Pillow truncates to whole grey levels."""
    if images.dtype == torch.uint8:
        return values.clamp_(0, 255).to(torch.uint8)
    return values.clamp_(0, 1).to(images.dtype)


def _working(images: Tensor) -> Tensor:
    """float32, or float64 for float64."""
    return images if images.dtype == torch.float64 else images.float()


def _column(images: Tensor, name: str, value: Factor, low: float, high: float) -> Tensor:
    """A factor as `[1 or B, 1, 1, 1]` on the device of the pictures, range checked."""
    if value is None or isinstance(value, str):
        raise InvalidInput(f"{name} is {value!r}; expected a number or a tensor [B].")
    if isinstance(value, (int, float)):
        if not low <= value <= high:
            raise InvalidInput(f"{name} is {value}; expected values from {low} to {high}.")
        return torch.full((1, 1, 1, 1), value, dtype=_working(images[:0]).dtype, device=images.device)
    column = torch.as_tensor(value, device=images.device)
    if column.ndim > 1 or column.numel() not in (1, len(images)):
        raise InvalidInput(
            f"{name} has shape {list(column.shape)}; expected a number, or one for each picture."
        )
    if not bool(((column >= low) & (column <= high)).all()):
        raise InvalidInput(f"{name} is {value}; expected values from {low} to {high}.")
    column = column if column.dtype == torch.float64 and images.dtype == torch.float64 else column.float()
    return column.reshape(-1, 1, 1, 1)


# Name -> function, factors that must be given, factors that may be.
OPERATIONS: dict[str, tuple[Callable[..., Tensor], frozenset[str], frozenset[str]]] = {
    "solarize": (_solarize, frozenset({"threshold"}), frozenset()),
    "grayscale": (_grayscale, frozenset(), frozenset()),
    "hflip": (_hflip, frozenset(), frozenset()),
    "brightness": (_brightness, frozenset({"factor"}), frozenset()),
    "contrast": (_contrast, frozenset({"factor"}), frozenset()),
    "saturation": (_saturation, frozenset({"factor"}), frozenset()),
    "hue": (_hue, frozenset({"factor"}), frozenset()),
    "gaussian_blur": (_gaussian_blur, frozenset({"sigma"}), frozenset({"kernel_size", "padding"})),
}
