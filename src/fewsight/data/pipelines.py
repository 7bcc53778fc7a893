"""Augmentation pipelines as data, applied to batches with parameters of each photo's own.

A view of a photo is a function of (seed, view, number of the sample) alone: it does not depend on the batch, on workers
or ranks, or on what was drawn before. Order of operations:

    crop, resize -> flip -> [quarter turns] -> colour jitter (its four operations in an order of the photo's own)
    -> grey -> blur -> solarise -> clip; every operation clips its result to the range of the pixels

The published pipelines stand in `AUGMENTATIONS` with their sources. Differs from the authors' code: pixels are floats
between the operations (whole grey levels in Pillow's).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.data.augment import Operation, Padding, photometric_
from fewsight.data.counter_draws import words
from fewsight.data.crops import CROP_DRAWS, Interpolation, crop_and_resize, random_boxes
from fewsight.data.views import Pipeline
from fewsight.errors import InvalidInput
from fewsight.names import closest
from fewsight.seeding import stream_seed

__all__ = [
    "AUGMENTATIONS",
    "KINDS",
    "Augmentation",
    "Kind",
    "augmentation",
    "augmented",
    "draws_of",
    "for_kind",
]

Kind = Literal["photos", "greyscale", "texture", "overhead"]
KINDS: tuple[Kind, ...] = ("photos", "greyscale", "texture", "overhead")
CHUNK_BYTES = (
    512 << 10
)  # float pixels that are worked on at once: with temporaries, what a core's cache holds
JITTER: tuple[Operation, ...] = ("brightness", "contrast", "saturation", "hue")

# Where each decision's random number stands in a sample's row.
FLIP, TURN, JITTERED, GREY, BLURRED, SIGMA, SOLARISED = range(CROP_DRAWS, CROP_DRAWS + 7)
FACTORS = slice(CROP_DRAWS + 7, CROP_DRAWS + 11)
ORDER = slice(CROP_DRAWS + 11, CROP_DRAWS + 15)
DRAWS = CROP_DRAWS + 15


@dataclass(frozen=True)
class Augmentation:
    """The operations of one pipeline and how likely each is. Probabilities are in [0, 1].

    Attributes:
        area, aspect: of the crop, as in `random_boxes`.
        interpolation: of the resize.
        flip: probability of mirroring left and right.
        turns: every photo is turned by 0, 90, 180 or 270 degrees, each alike (pictures from above have no upright).
        jitter: strength of brightness, contrast, saturation and hue: factors from max(0, 1 - x) to 1 + x, hue turned by
            -x to x of the circle.
        jittered: probability of the jitter.
        grey: probability of greyscale.
        blur: probability of a Gaussian blur with a standard deviation in `sigma` pixels.
        border: `pil` (edges repeated), `reflect` (`kernel` pixels wide), or `zeros` (a tenth of the side wide).
        kernel: of a `reflect` blur, odd.
        solarise: probability of inverting what is 128 or brighter.
    """

    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bicubic"
    flip: float = 0.5
    turns: bool = False
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jittered: float = 0.8
    grey: float = 0.2
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    border: Padding = "pil"
    kernel: int = 9
    solarise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "jittered", "grey", "blur", "solarise"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; expected a probability in [0, 1].")
        if min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise InvalidInput(f"jitter is {self.jitter}; expected strengths of 0 or more, hue at most 0.5.")


_DINO = Augmentation(area=(0.4, 1.0))
_DINOV2 = Augmentation(area=(0.32, 1.0), border="reflect")

AUGMENTATIONS: dict[Pipeline, Augmentation] = {
    # Chen et al. 2020, appendix A (strength 1; blur with a zero border).
    "simclr": Augmentation(jitter=(0.8, 0.8, 0.8, 0.2), blur=0.5, border="zeros"),
    # Grill et al. 2020, table 6; Chen, Xie, He 2021.
    "byol_1": Augmentation(interpolation="bilinear", blur=1.0),
    "byol_2": Augmentation(interpolation="bilinear", blur=0.1, solarise=0.2),
    # Caron et al. 2021, and the same in iBOT and MC-SSL.
    "dino_1": replace(_DINO, blur=1.0),
    "dino_2": replace(_DINO, blur=0.1, solarise=0.2),
    "dino_local": replace(_DINO, area=(0.05, 0.4), blur=0.5),
    # Oquab et al. 2024 as it ran: the blur's probabilities are inverted there.
    "dinov2_1": _DINOV2,
    "dinov2_2": replace(_DINOV2, blur=0.9, solarise=0.2),
    "dinov2_local": replace(_DINOV2, area=(0.05, 0.32), blur=0.5),
    # Assran et al. 2022; Caron et al. 2020. Views of both sizes have the same operations.
    "msn": Augmentation(area=(0.3, 1.0), interpolation="bilinear", jitter=(0.4, 0.4, 0.4, 0.1), blur=0.5),
    "swav": Augmentation(area=(0.14, 1.0), interpolation="bilinear", jitter=(0.8, 0.8, 0.8, 0.2), blur=0.5),
    # He et al. 2022, Xie et al. 2022 (area from 0.67); Atito et al. 2022.
    "crop_flip": Augmentation(area=(0.2, 1.0), jittered=0.0, grey=0.0),
    "gmml": Augmentation(area=(0.25, 1.0), jittered=0.3, grey=0.0, blur=0.1),
}


def augmentation(name: str, size: int, area: tuple[float, float] | None = None) -> Augmentation:
    """The published operations of a name for views of `size` pixels, with another crop area if one is given.

    Views below 64 px are not blurred, and SimCLR's jitter has half its strength there, as Chen et al. (appendix B.9)
    and most later code do for pictures of 32 px.

    Raises:
        InvalidInput: the name is unknown; the message names the nearest.
    """
    if name not in AUGMENTATIONS:
        raise InvalidInput(f"{name!r} is no augmentation pipeline. {closest(name, list(AUGMENTATIONS))}")
    chosen: Augmentation = AUGMENTATIONS[name]  # type: ignore[index]
    chosen = chosen if area is None else replace(chosen, area=area)
    if size >= 64:
        return chosen
    return replace(chosen, blur=0.0, jitter=(0.4, 0.4, 0.4, 0.1) if name == "simclr" else chosen.jitter)


def for_kind(chosen: Augmentation, kind: Kind) -> Augmentation:
    """A pipeline without what would destroy the signal of a kind of picture. Ours, not published.

    `greyscale` (X-rays, microscopes, line cameras): no hue, saturation, greyscale or solarising, which would invert
    densities. `texture`: colour and sharpness are what tells materials apart, so weak jitter, no blur, no greyscale, no
    small crops. `overhead`: quarter turns besides the flip, and the crop keeps its aspect, since sizes mean something.

    Raises:
        InvalidInput: the kind is unknown.
    """
    brightness, contrast, saturation, _ = chosen.jitter
    if kind == "photos":
        return chosen
    if kind == "greyscale":
        return replace(chosen, jitter=(brightness, contrast, 0.0, 0.0), grey=0.0, solarise=0.0)
    if kind == "texture":
        weak = (brightness / 2, contrast / 2, saturation / 4, 0.0)
        area = (max(0.2, chosen.area[0]), max(0.5, chosen.area[1]))
        return replace(chosen, jitter=weak, grey=0.0, blur=0.0, solarise=0.0, area=area)
    if kind == "overhead":
        return replace(chosen, turns=True, aspect=(1.0, 1.0), solarise=0.0)
    raise InvalidInput(f"kind is {kind!r}; expected one of {', '.join(KINDS)}.")


def draws_of(seed: int, view: int, samples: NDArray[numpy.int64]) -> NDArray[numpy.float64]:
    """Random numbers in [0, 1) for one view of each sample, `[B, DRAWS]`; samples are numbered over the whole run."""
    random = words(stream_seed(seed, "view", view), samples, DRAWS)
    return (random >> numpy.uint64(11)).astype(numpy.float64) / 2.0**53


def augmented(
    pixels: Tensor | Sequence[Tensor],
    chosen: Augmentation,
    size: tuple[int, int],
    draws: NDArray[numpy.float64],
) -> Tensor:
    """One view of each photo.

    Args:
        pixels: uint8 `[B, 3, H, W]`, or B photos `[3, H_b, W_b]` of sizes of their own; not changed.
        chosen: the pipeline.
        size: height and width of the view in pixels.
        draws: from `draws_of`, `[B, DRAWS]`.

    Returns:
        float32 `[B, 3, *size]` in [0, 1].
    """
    sides = numpy.array([photo.shape[1:] for photo in pixels], numpy.int64).reshape(-1, 2)
    boxes = random_boxes(draws[:, :CROP_DRAWS], sides, chosen.area, chosen.aspect)
    crops = crop_and_resize(pixels, boxes, size, chosen.interpolation)
    _flip(crops, draws[:, FLIP] < chosen.flip)  # as bytes, which exchanges the same pixels
    views = torch.empty(crops.shape, dtype=torch.float32, device=crops.device)
    step = max(1, CHUNK_BYTES // (12 * size[0] * size[1]))
    for first in range(0, len(crops), step):
        rows = slice(first, first + step)
        _photometric(views[rows].copy_(crops[rows]).div_(255), chosen, draws[rows])
    return views


def _flip(crops: Tensor, chosen: NDArray[numpy.bool_]) -> None:
    for row in numpy.flatnonzero(chosen).tolist():  # a gather of bytes would take longer
        crops[row] = crops[row].flip(-1)


def _photometric(views: Tensor, chosen: Augmentation, draws: NDArray[numpy.float64]) -> None:
    """Everything after the flip, in place."""
    if chosen.turns:
        _turn(views, numpy.floor(4 * draws[:, TURN]))
    _jitter(views, chosen, draws)
    _apply(views, "grayscale", draws[:, GREY] < chosen.grey)
    if chosen.blur:
        sigma = chosen.sigma[0] + draws[:, SIGMA] * (chosen.sigma[1] - chosen.sigma[0])
        _apply(views, "gaussian_blur", draws[:, BLURRED] < chosen.blur, sigma=sigma, **_kernel(views, chosen))
    _apply(views, "solarize", draws[:, SOLARISED] < chosen.solarise, threshold=128.0)


def _jitter(views: Tensor, chosen: Augmentation, draws: NDArray[numpy.float64]) -> None:
    jittered = draws[:, JITTERED] < chosen.jittered
    order = draws[:, ORDER].argsort(axis=1)  # a random permutation for each photo
    for at_place in order.T:
        for number in sorted(set(at_place[jittered].tolist())):
            strength, operation = chosen.jitter[number], JITTER[number]
            if strength == 0:
                continue
            low = -strength if operation == "hue" else max(0.0, 1 - strength)
            high = strength if operation == "hue" else 1 + strength
            factor = low + draws[:, FACTORS][:, number] * (high - low)
            _apply(views, operation, jittered & (at_place == number), factor=factor)


def _apply(views: Tensor, operation: Operation, chosen: NDArray[numpy.bool_], **factors: object) -> None:
    """One operation on the chosen photos, in place; arrays `[B]` among the factors are cut to them."""
    rows = numpy.flatnonzero(chosen)
    if not len(rows):
        return
    if len(rows) == 1:  # large pictures come by themselves: nothing is gathered, and factors are numbers
        row = int(rows[0])
        plain = {k: float(v[row]) if isinstance(v, numpy.ndarray) else v for k, v in factors.items()}
        photometric_(views[row : row + 1], operation, **plain)  # type: ignore[arg-type]
        return
    index = torch.from_numpy(rows).to(views.device)
    given = {
        name: torch.from_numpy(value[rows]).float().to(views.device)
        if isinstance(value, numpy.ndarray)
        else value
        for name, value in factors.items()
    }
    part = views[index]
    photometric_(part, operation, **given)  # type: ignore[arg-type]
    views[index] = part


def _turn(views: Tensor, quarters: NDArray[numpy.float64]) -> None:
    """Turn each photo by its number of quarters; views that are not square are turned by halves alone."""
    steps = quarters if views.shape[2] == views.shape[3] else quarters - quarters % 2
    for number in (1, 2, 3):
        index = torch.from_numpy(numpy.flatnonzero(steps == number)).to(views.device)
        if len(index):
            views[index] = views[index].rot90(number, dims=(2, 3))


def _kernel(views: Tensor, chosen: Augmentation) -> dict[str, object]:
    if chosen.border == "pil":
        return {"padding": "pil"}
    side = min(views.shape[2:])
    wanted = 2 * (side // 20) + 1 if chosen.border == "zeros" else chosen.kernel
    return {"padding": chosen.border, "kernel_size": min(wanted, 2 * side - 1 - (side == 1))}
