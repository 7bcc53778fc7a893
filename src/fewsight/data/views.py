"""What views of a picture an objective asks for: `ViewSpec`, plain data that the data path turns into pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fewsight.errors import InvalidInput

__all__ = ["Pipeline", "ViewSpec"]

# How a view is made; two names where the published views of one method differ (blur, solarise).
Pipeline = Literal[
    "simclr",  # crop, flip, strong jitter, grey, blur
    "byol_1",  # BYOL and MoCo-v3, first view: blur always
    "byol_2",  # second view: blur 0.1, solarise 0.2
    "dino_1",  # DINO, iBOT, MC-SSL, first global view
    "dino_2",  # second global view
    "dino_local",
    "dinov2_1",  # as the released weights were trained: blur probabilities 0, 0.9, 0.5
    "dinov2_2",
    "dinov2_local",
    "msn",
    "swav",
    "crop_flip",  # MAE, SimMIM
    "gmml",  # crop, flip, light jitter, rare blur
]


@dataclass(frozen=True)
class ViewSpec:
    """`count` views of one size, drawn independently by one pipeline.

    Attributes:
        count: 1 or more.
        size: side of the square view in pixels.
        pipeline: the augmentations.
        scale: lowest and highest area of the crop as a share of the picture's, in (0, 1].
    """

    count: int
    size: int
    pipeline: Pipeline
    scale: tuple[float, float]

    def __post_init__(self) -> None:
        if self.count < 1 or self.size < 1:
            raise InvalidInput(f"{self.count} views of {self.size} pixels; expected 1 or more of each.")
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise InvalidInput(f"scale is {self.scale}; expected 0 < lowest <= highest <= 1.")
