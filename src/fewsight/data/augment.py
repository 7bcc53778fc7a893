"""Photometric operations on batches of pictures, with one factor for each picture.

uint8 pictures are treated as Pillow does, operation by operation: values are clipped and rounded after each.
Floats in [0, 1] take the same formulas without rounding. `factor` arguments are numbers, or tensors `[B]`.

    solarize       v >= threshold becomes 255 - v                        grayscale    ITU-R 601 luma, three channels
    brightness     f v                                                   hflip        columns mirrored
    contrast       f v + (1 - f) mean grey of the picture                hue          turned on the colour circle
    saturation     f v + (1 - f) grey of the pixel                       gaussian_blur

Sources: Pillow 13 `ImageOps`, `ImageEnhance`, `ImageFilter.GaussianBlur` (three box blurs); torchvision 0.29
`gaussian_blur`; SimCLR (ICML 2020), appendix A. Differs from them: Pillow's blur is applied as one product of its
three box filters, without rounding in between (at most 2 grey levels apart). The floats' formulas stand in
`float_operations`, the blur in `blur`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from fewsight.data import float_operations
from fewsight.data.blur import Padding, gaussian_blur
from fewsight.data.float_operations import LUMA
from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["Operation", "Padding", "photometric", "photometric_"]

Operation = Literal[
    "solarize", "grayscale", "hflip", "brightness", "contrast", "saturation", "hue", "gaussian_blur"
]
Factor = float | Tensor


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
    function = _checked(operation, factors)
    if images.dtype == torch.uint8:
        return function(images, **factors)
    values = _working(images)
    values = values.clone() if values is images else values
    photometric_(values, operation, **factors)
    return values.to(images.dtype)


def photometric_(values: Tensor, operation: Operation, **factors: Factor | Padding | None) -> None:
    """`photometric` of float32 or float64 pictures in place.

    Raises:
        InvalidInput: as `photometric`.
    """
    _checked(operation, factors)
    _IN_PLACE[operation](values, **factors)


def _checked(operation: str, factors: Mapping[str, object]) -> Callable[..., Tensor]:
    """The operation on bytes, if it is one and its factors are given."""
    if operation not in OPERATIONS:
        raise InvalidInput(f"operation is {operation!r}; expected one of {', '.join(OPERATIONS)}.")
    function, wanted, optional = OPERATIONS[operation]
    if set(factors) - wanted - optional or wanted - set(factors):
        raise InvalidInput(
            f"{operation} was given {sorted(factors)}; expected {sorted(wanted)}"
            + (f" and, if wanted, {sorted(optional)}." if optional else ".")
        )
    return function


def _solarize(images: Tensor, *, threshold: Factor) -> Tensor:
    return torch.where(images >= _column(images, "threshold", threshold, 0, 256), 255 - images, images)


def _grayscale(images: Tensor) -> Tensor:
    return _grey(images).expand(-1, 3, -1, -1).contiguous()


def _hflip(images: Tensor) -> Tensor:
    return images.flip(-1)


def _brightness(images: Tensor, *, factor: Factor) -> Tensor:
    return _blend(images, torch.zeros((), dtype=images.dtype, device=images.device), factor)


def _contrast(images: Tensor, *, factor: Factor) -> Tensor:
    return _blend(images, torch.floor(_grey(images).float().mean(dim=(1, 2, 3), keepdim=True) + 0.5), factor)


def _saturation(images: Tensor, *, factor: Factor) -> Tensor:
    return _blend(images, _grey(images), factor)


def _hue(images: Tensor, *, factor: Factor) -> Tensor:
    """Turn the hue by a share of the circle; saturation and value stay: as `float_operations.hue`."""
    turn = _column(images, "factor", factor, -0.5, 0.5)[:, 0]  # [B, 1, 1]
    planes = images.float().unbind(dim=1)
    value = torch.maximum(torch.maximum(planes[0], planes[1]), planes[2])  # [B, H, W]
    chroma = value - torch.minimum(torch.minimum(planes[0], planes[1]), planes[2])
    hue, chroma = _pillow_hue(planes, turn, value, chroma)
    shares = (2 - (hue - 3).abs(), (hue - 2).abs() - 1, (hue - 4).abs() - 1)
    turned = torch.stack([value - chroma * share.clamp_(0, 1) for share in shares], dim=1)
    return _whole_levels(turned.add_(0.5))


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
    blurred = gaussian_blur(images.float(), _sigmas(images, sigma), kernel_size, padding)
    return _whole_levels(blurred + 0.5).contiguous()


def _sigmas(images: Tensor, sigma: Factor) -> Tensor:
    """`[B]`, in the precision that is worked in."""
    sigmas = _column(images, "sigma", sigma, 0, math.inf).flatten()
    if bool((sigmas <= 0).any() | sigmas.isinf().any()):
        raise InvalidInput(f"sigma is {sigma}; expected finite numbers above 0.")
    return sigmas.expand(len(images)).to(_working(images[:0]).dtype)


def _grey(images: Tensor) -> Tensor:
    """Luma `[B, 1, H, W]`, rounded in fixed point as Pillow does."""
    red, green, blue = (weight * images[:, [i]].int() for i, weight in enumerate(LUMA))
    return ((red + green + blue + 32768) >> 16).to(torch.uint8)


def _blend(images: Tensor, other: Tensor, factor: Factor) -> Tensor:
    """`factor * images + (1 - factor) * other`, in Pillow's order of rounding."""
    share, other = _column(images, "factor", factor, 0, sys.float_info.max).float(), other.float()
    return _whole_levels(other + share * (images.float() - other))


def _whole_levels(values: Tensor) -> Tensor:
    """Cut to whole grey levels, as Pillow does."""
    return values.clamp_(0, 255).to(torch.uint8)


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


def _scalar(images: Tensor, name: str, value: Factor, low: float, high: float) -> float | Tensor:
    """As `_column`, but a number stays one."""
    if isinstance(value, (int, float)) and low <= value <= high:
        return float(value)
    return _column(images, name, value, low, high)


def _by_factor(
    operation: Callable[[Tensor, float | Tensor], None], low: float = 0.0, high: float = sys.float_info.max
) -> Callable[..., None]:
    def in_place(values: Tensor, *, factor: Factor) -> None:
        operation(values, _scalar(values, "factor", factor, low, high))

    return in_place


def _solarize_(values: Tensor, *, threshold: Factor) -> None:
    limit = _scalar(values, "threshold", threshold, 0, 256)
    float_operations.solarize(
        values, limit / 255 if isinstance(limit, float) else limit.to(values.dtype) / 255
    )


def _grayscale_(values: Tensor) -> None:
    values.copy_(float_operations.grey(values).expand(-1, 3, -1, -1))


def _hflip_(values: Tensor) -> None:
    values.copy_(values.flip(-1))


def _gaussian_blur_(
    values: Tensor, *, sigma: Factor, kernel_size: int | None = None, padding: Padding = "pil"
) -> None:
    values.copy_(gaussian_blur(values, _sigmas(values, sigma), kernel_size, padding))


_IN_PLACE: dict[str, Callable[..., None]] = {
    "solarize": _solarize_,
    "grayscale": _grayscale_,
    "hflip": _hflip_,
    "brightness": _by_factor(float_operations.brighten),
    "contrast": _by_factor(float_operations.contrast),
    "saturation": _by_factor(float_operations.saturate),
    "hue": _by_factor(float_operations.hue, -0.5, 0.5),
    "gaussian_blur": _gaussian_blur_,
}

# Name -> function on bytes, factors that must be given, factors that may be.
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
