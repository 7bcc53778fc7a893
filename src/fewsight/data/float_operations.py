"""Photometric operations on floats in [0, 1], in place, with one factor for each picture.

Pictures are `[B, 3, H, W]`, in float32 or float64; a factor is a number, or a tensor `[B, 1, 1, 1]`. Each operation
sweeps the pixels as seldom as its formula allows: on a processor what counts is how often they pass through the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LUMA", "brighten", "contrast", "grey", "hue", "saturate", "solarize"]

# Shares of red, green and blue in grey, in 1/65536 as Pillow has them.
LUMA = (19595, 38470, 7471)


def grey(values: Tensor) -> Tensor:
    """Luma `[B, 1, H, W]`, new."""
    made = values[:, :1] * (LUMA[0] / 65536)
    for channel in (1, 2):
        made.add_(values[:, channel : channel + 1], alpha=LUMA[channel] / 65536)
    return made


def brighten(values: Tensor, factor: float | Tensor) -> None:
    """`f v`."""
    values.mul_(factor).clamp_(0, 1)


def contrast(values: Tensor, factor: float | Tensor) -> None:
    """`f v + (1 - f) m`, with m the mean grey of the picture: the luma of the channels' means."""
    mean = grey(values.mean(dim=(2, 3), keepdim=True))
    values.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def saturate(values: Tensor, factor: float | Tensor) -> None:
    """`f v + (1 - f) g`, with g the grey of the pixel."""
    share = grey(values).mul_(1 - factor)
    values.mul_(factor).add_(share).clamp_(0, 1)


def solarize(values: Tensor, limit: float | Tensor) -> None:
    """`1 - v` where v is the limit or more."""
    chosen = values.clone().ge_(
        limit
    )  # 1 or 0; choosing by `lerp` with these is exact, and faster than `where`
    torch.lerp(values, 1 - values, chosen, out=values)


def hue(values: Tensor, turn: float | Tensor) -> None:
    """Turn the hue by a share of the circle; saturation and value stay.

    With largest channel v, smallest m and chroma c = v - m, the hue stands |x| sixths of the circle from red, where

        c |x| = (v - r) + (g - m) + (b - m),

    on the side of green if g > b, else on that of blue, as is seen sector by sector. With the turned hue h in sixths
    from 0 to 6, red is `v - c clip(2 - |h - 3|)`, green `v - c clip(|h - 2| - 1)` and blue `v - c clip(|h - 4| - 1)`,
    clipped to [0, 1] (Smith, Color gamut transform pairs, SIGGRAPH 1978).
    """
    red, green, blue = values.unbind(dim=1)  # [B, H, W]
    turn = turn if isinstance(turn, float) else turn[:, 0]
    most = torch.maximum(red, green)
    torch.maximum(most, blue, out=most)
    least = torch.minimum(red, green)
    torch.minimum(least, blue, out=least)
    h = torch.sub(green, least).add_(blue).sub_(least).add_(most).sub_(red)
    chroma = torch.sub(most, least, out=least)
    side = torch.sub(green, blue)
    share = chroma.clamp(min=torch.finfo(values.dtype).tiny)
    torch.copysign(h.div_(share), side, out=h).add_(6 * turn)
    h.sub_(torch.div(h, 6, out=share).floor_(), alpha=6)
    for plane, center in ((red, 3), (green, 2), (blue, 4)):
        torch.sub(h, center, out=share).abs_()
        share = torch.sub(2, share, out=share) if center == 3 else share.sub_(1)
        torch.addcmul(most, chroma, share.clamp_(0, 1), value=-1, out=plane)
