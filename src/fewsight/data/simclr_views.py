"""Random views of SimCLR's first version: crop, mirror, colour jitter, grey, and blur where it is asked for.

Ting Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, appendix A, as
the code of CrossTransformers (Doersch et al. 2020) calls it for SimCLR episodes:

    crop      area 8 to 100 %, aspect 3/4 to 4/3, at most 100 tries, then the whole; bicubic back to the input's size
    mirror    half of the pictures
    jitter    80 % of them: brightness + U[-0.8, 0.8], contrast about each channel's mean and saturation (HSV) times
              U[0.2, 1.8], hue + U[-0.2, 0.2] turns, in a random order, clipped to [0, 1] after each
    grey      20 % of them
    blur      sigma U[0.1, 2.0] pixels, about a tenth of the height in taps, borders darken

TensorFlow's crop draws the height, not the area, evenly, and must hold a tenth of the picture; its bicubic kernel
(a = -0.75) neither smooths nor centres pixels, and repeats the border of the crop.

Differs from torchvision's jitter: additive brightness, contrast about channel means, saturation and hue in HSV.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewsight.data.augment import photometric
from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["colour_jitter", "crop_boxes", "resized_crops", "simclr_views"]

SMALLEST, ASPECT, ATTEMPTS, COVERED = 0.08, (3 / 4, 4 / 3), 100, 0.1
MIRRORED, JITTERED, GREY = 0.5, 0.8, 0.2
SHIFT, TURN = 0.8, 0.2  # of brightness, contrast, saturation; of hue
SIGMA = (0.1, 2.0)
STRONGEST = 1.25  # beyond it contrast would turn negative
CUBIC = -0.75


def simclr_views(
    images: Tensor,
    generator: torch.Generator,
    *,
    strength: float = 1.0,
    blur: float = 0.0,
    smallest: float = SMALLEST,
) -> Tensor:
    """One view of each picture, drawn independently.

    Args:
        images: float `[B, 3, H, W]` in [0, 1]; not changed.
        generator: on the processor; it is advanced.
        strength: of the colour jitter, 0 to 1.25.
        blur: probability of the blur.
        smallest: area of the smallest crop as a share of the picture, up to 1; below 0.1 only the draw of heights
            depends on it, as published. At 1 the whole picture stays.

    Returns:
        `[B, 3, H, W]` in [0, 1].

    Raises:
        InvalidInput: another shape, pictures that are not floats, or a value out of range.

    >>> simclr_views(torch.rand(2, 3, 32, 32), torch.Generator().manual_seed(0), blur=1.0).shape
    torch.Size([2, 3, 32, 32])
    """
    check_shapes(images=(images, "B 3 H W"))
    if not images.is_floating_point():
        raise InvalidInput(f"images are {images.dtype}; expected floats in [0, 1].")
    if not 0 <= strength <= STRONGEST or not 0 <= blur <= 1:
        raise InvalidInput(
            f"strength is {strength} and blur {blur}; expected 0 to {STRONGEST}, and a probability."
        )
    if not 0 < smallest <= 1:
        raise InvalidInput(f"smallest is {smallest}; expected a share of the picture in (0, 1].")
    if not len(images):
        return images.clone()
    count, _, height, width = images.shape
    views = resized_crops(images, crop_boxes(count, (height, width), generator, smallest))
    views = _where(_chosen(count, MIRRORED, generator), views.flip(-1), views)
    views = colour_jitter(views, generator, strength)
    grey = _chosen(count, GREY, generator)
    views = views.clamp(0, 1)
    views = _where(grey, photometric(views, "grayscale"), views)
    return _blurred(views, _chosen(count, blur, generator), generator) if blur else views


def _chosen(count: int, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) < probability


def _between(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(chosen.to(one.device)[:, None, None, None], one, other)


def crop_boxes(
    count: int, size: tuple[int, int], generator: torch.Generator, smallest: float = SMALLEST
) -> Tensor:
    """Random crops (top, left, height, width) in whole pixels, int `[count, 4]`, as TensorFlow draws them.

    The aspect is relative to the picture's own; where no try fits, the whole picture stays.
    """
    height, width = size
    boxes = torch.tensor([0, 0, height, width]).repeat(count, 1)
    waiting = torch.arange(count)
    for _ in range(ATTEMPTS):
        draws = torch.rand(len(waiting), 4, generator=generator, dtype=torch.float64)
        ratio = (ASPECT[0] + draws[:, 0] * (ASPECT[1] - ASPECT[0])) * width / height
        tall = _heights(ratio, draws[:, 1], height, width, smallest)
        wide = (tall * ratio).round()
        covered = tall * wide / (height * width)
        fits = (covered >= max(smallest, COVERED)) & (covered <= 1) & (wide <= width) & (tall <= height)
        top, left = (draws[:, 2] * (height - tall)).floor(), (draws[:, 3] * (width - wide)).floor()
        boxes[waiting[fits]] = torch.stack([top, left, tall, wide], 1)[fits].long()
        waiting = waiting[~fits]
        if not len(waiting):
            break
    return boxes


def _heights(ratio: Tensor, share: Tensor, height: int, width: int, smallest: float) -> Tensor:
    """Heights drawn evenly between those of the smallest and of the largest area; one pixel mends rounding."""
    whole = height * width
    lowest, highest = ((area * whole / ratio).sqrt().round() for area in (smallest, 1.0))
    widest = ((width + 0.5 - 1e-7) / ratio).floor()
    highest = torch.where((highest * ratio).round() > width, widest, highest).clamp(max=height)
    lowest = torch.minimum(lowest, highest)
    tall = lowest + (share * (highest - lowest + 1)).floor()
    tall = tall + ((tall * (tall * ratio).round()) < smallest * whole)
    return tall - ((tall * (tall * ratio).round()) > whole).to(tall)


def resized_crops(images: Tensor, boxes: Tensor) -> Tensor:
    """Each picture's crop (top, left, height, width), enlarged to the picture's size by a cubic kernel.

    Two matrix products a picture; values may leave the range a little, as a cubic kernel does.
    """
    height, width = images.shape[-2:]
    rows = _cubic_matrix(height, boxes[:, 0], boxes[:, 2]).to(images)  # [B, H, H]
    columns = _cubic_matrix(width, boxes[:, 1], boxes[:, 3]).to(images)  # [B, W, W]
    return rows[:, None] @ images @ columns[:, None].mT


def _cubic_matrix(side: int, start: Tensor, length: Tensor) -> Tensor:
    """`[B, side, side]`: output pixel i reads the crop at i * length / side (corners of pixels aligned)."""
    place = torch.arange(side, dtype=torch.float64) * length[:, None] / side  # [B, side]
    base = place.floor()
    offset = (place - base)[..., None] - torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    near = offset.abs()
    inner = ((CUBIC + 2) * near - (CUBIC + 3)) * near * near + 1
    outer = CUBIC * (((near - 5) * near + 8) * near - 4)
    weights = torch.where(near <= 1, inner, torch.where(near < 2, outer, 0.0))  # [B, side, 4]
    sources = base.long()[..., None] + torch.arange(-1, 3)
    sources = torch.minimum(sources.clamp(min=0), length[:, None, None] - 1) + start[:, None, None]
    matrix = torch.zeros(len(start), side, side, dtype=torch.float64)
    return matrix.scatter_add_(2, sources, weights)


def colour_jitter(images: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Brightness, contrast, saturation and hue in an order of its own for each picture; four of five are changed."""
    count = len(images)
    chosen = _chosen(count, JITTERED, generator)
    order = torch.rand(count, 4, generator=generator).argsort(1)
    shift, turn = SHIFT * strength, TURN * strength
    factors = [
        _between(-shift, shift, count, generator),
        *(_between(1 - shift, 1 + shift, count, generator) for _ in range(2)),
        _between(-turn, turn, count, generator),
    ]
    images = images.clone()
    for place in range(4):
        for number, change in enumerate((_brighter, _contrasted, _saturated, _turned)):
            rows = (chosen & (order[:, place] == number)).nonzero()[:, 0]
            if len(rows):
                factor = factors[number][rows].to(images)[:, None, None, None]
                images[rows.to(images.device)] = change(images[rows.to(images.device)], factor).clamp_(0, 1)
    return images


def _brighter(images: Tensor, delta: Tensor) -> Tensor:
    return images + delta


def _contrasted(images: Tensor, factor: Tensor) -> Tensor:
    mean = images.mean((2, 3), keepdim=True)
    return mean + factor * (images - mean)


def _saturated(images: Tensor, factor: Tensor) -> Tensor:
    """HSV saturation s becomes min(1, factor s): a channel's distance to the value v grows by that, v stays."""
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    growth = torch.minimum(factor, value / chroma.clamp(min=torch.finfo(images.dtype).tiny))
    return value - (value - images) * growth


def _turned(images: Tensor, turns: Tensor) -> Tensor:
    return photometric(images.clamp(0, 1), "hue", factor=turns.flatten())


def _blurred(images: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    sigma = _between(*SIGMA, len(images), generator)
    taps = 2 * (images.shape[2] // 10 // 2) + 1
    blurred = photometric(images, "gaussian_blur", sigma=sigma, kernel_size=taps, padding="zeros")
    return _where(chosen, blurred, images)
