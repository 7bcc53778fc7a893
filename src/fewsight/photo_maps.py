"""Maps of one photo: the size that is kept, the parts that a large photo is seen in, labels at the original size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from fewsight.whole_photos import Size

__all__ = ["MAP_SIDE", "MOST_TILES", "PhotoSegments", "labels_of_maps", "map_size", "overlapping_parts"]

MAP_SIDE = 128  # pixels: longest side of the foreground maps that are kept
MOST_TILES = 16  # parts along a side


class PhotoSegments(NamedTuple):
    """One photo: `labels` int16 [H, W], 0 background, k + 1 = class k; `presence` probabilities [K]; `maps` uint8
    [K, h, w], foreground probability times 255, from which other thresholds make other labels (`labels_of_maps`)."""

    labels: NDArray[numpy.int16]
    presence: NDArray[numpy.float64]
    maps: NDArray[numpy.uint8]


def map_size(size: Size) -> Size:
    """The size of the maps that are kept: the photo's, or smaller; a patch grid holds no more than this."""
    share = min(1.0, MAP_SIDE / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def overlapping_parts(size: Size, tiles: int) -> Iterator[tuple[int, int, int, int]]:
    """(top, bottom, left, right) in pixels of `tiles` x `tiles` parts that overlap by half of a part."""
    edges = []
    for length in size:
        extent = min(length, math.ceil(2 * length / (tiles + 1)))
        starts = [round(k * (length - extent) / (tiles - 1)) for k in range(tiles)]
        edges.append([(start, start + extent) for start in starts])
    for top, bottom in edges[0]:
        for left, right in edges[1]:
            yield top, bottom, left, right


def labels_of_maps(
    maps: NDArray[numpy.uint8], present: NDArray[numpy.bool_], size: Size, *, threshold: float = 0.5
) -> NDArray[numpy.int16]:
    """Labels [H, W] from kept maps: k + 1 where class k is present and has the largest foreground of at least
    `threshold`, else 0; class by class, so that memory does not grow with them.

    Args:
        maps: foreground probability times 255, [K, h, w]; enlarged bilinearly.
        present: [K].
        size: (H, W) of the photo in pixels.
        threshold: in (0, 1).
    """
    best, labels = torch.full(size, threshold), torch.zeros(size, dtype=torch.int16)
    for way in numpy.flatnonzero(present).tolist():
        one = torch.from_numpy(maps[way]).float()[None, None] / 255
        one = F.interpolate(one, size=tuple(size), mode="bilinear", align_corners=False)[0, 0]
        # ties go to the lowest class; a first class from the threshold itself on
        labels[(one > best) | ((one == best) & (labels == 0))] = way + 1
        best = torch.maximum(best, one)
    return labels.numpy()
