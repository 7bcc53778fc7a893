"""A part of a photo: (x, y, width, height) as shares of the upright photo, from its top left."""

from __future__ import annotations

import math

from fewsight.data.pixels import Pixels

__all__ = ["MARGIN", "cut_out", "needed_whole"]

MARGIN = 0.1  # of the sides of a box, kept around it
SMALLEST = 1 / 16  # share of a side from which a photo is decoded larger for its box, no further


def cut_out(image: Pixels, box: tuple[float, float, float, float], *, margin: float = MARGIN) -> Pixels:
    """The part of an upright photo uint8 [H, W, 3] in `box`, widened by `margin` of its sides; at least one pixel.

    >>> import numpy
    >>> cut_out(numpy.zeros((100, 200, 3), dtype=numpy.uint8), (0.5, 0.5, 0.25, 0.5), margin=0).shape
    (50, 50, 3)
    """
    height, width = image.shape[:2]
    x, y, wide, tall = box
    left, right = math.floor((x - margin * wide) * width), math.ceil((x + wide + margin * wide) * width)
    top, bottom = math.floor((y - margin * tall) * height), math.ceil((y + tall + margin * tall) * height)
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return image[top : max(top + 1, min(bottom, height)), left : max(left + 1, min(right, width))]


def needed_whole(needed: tuple[int, int], box: tuple[float, float, float, float]) -> tuple[int, int]:
    """Height and width that the whole photo must be decoded to, so that its box has `needed`.

    >>> needed_whole((100, 100), (0.2, 0.2, 0.5, 0.25))
    (400, 200)
    """
    return tuple(math.ceil(n / max(side, SMALLEST)) for n, side in zip(needed, (box[3], box[2]), strict=True))  # type: ignore[return-value]
