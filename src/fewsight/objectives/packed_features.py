"""`Features` as one matrix and back, so that what caches gradients of a tensor serves any request to a backbone."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fewsight.backbones.features import Features

__all__ = ["Packing", "pack"]


class Packing(NamedTuple):
    """Rows `[B, N]` that hold every tensor of some features side by side, and what undoes it."""

    rows: Tensor
    template: Features  # of no images: shapes and fields

    def features(self, rows: Tensor) -> Features:
        """Features from rows `[b, N]` of this layout; differentiable."""
        start = 0

        def taken(empty: Tensor) -> Tensor:
            nonlocal start
            width = math.prod(empty.shape[1:])
            part = rows[:, start : start + width]
            start += width
            return part.view(len(rows), *empty.shape[1:])

        return self.template.map(taken)


def pack(features: Features) -> Packing:
    """Every tensor of `features` in one matrix, float32 at least; differentiable."""
    parts: list[Tensor] = []

    def noted(tensor: Tensor) -> Tensor:
        wide = tensor if tensor.dtype == torch.float64 else tensor.float()
        parts.append(wide.flatten(1))
        return wide[:0].detach()

    template = features.map(noted)
    return Packing(torch.cat(parts, 1), template)
