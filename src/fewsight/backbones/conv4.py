"""Conv-4: four blocks of 3 x 3 convolution, batch norm, ReLU and 2 x 2 max pooling, 64 channels each.

The network of Vinyals et al. 2016 and Snell et al. 2017 (appendix): 28 x 28 pixels become one vector of 64, 84 x 84
a map of 5 x 5. In training its batch norm takes the moments of the batch, in evaluation the running averages.

For heads that compare places, `output_stride=8` leaves out the last pooling (32 x 32 pixels become 4 x 4), the widths
of the blocks may differ, and `norm="group"` normalises each image by itself (Wu and He, "Group Normalization", ECCV
2018), so that no image depends on another, in training either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone, Licence, TokenMask
from fewsight.backbones.features import Features, Request
from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["Conv4"]


Norm = Literal["batch", "group"]
GROUP = 16  # channels that group norm takes together


def _block(channels_in: int, channels_out: int, norm: Norm, pooled: bool) -> nn.Sequential:
    layers = [
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.BatchNorm2d(channels_out)
        if norm == "batch"
        else nn.GroupNorm(max(1, channels_out // GROUP), channels_out),
    ]
    # pooling before the ReLU: the same values and gradients, a quarter of the work
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pooled else []), nn.ReLU())


class Conv4(Backbone):
    """Images `[B, 3, H, W]` -> patches `[B, H // stride, W // stride, width]`; no class token, no blocks.

    Args:
        width: channels of each block, or of all four; 64 as published.
        output_stride: 16 as published; 8 without the last pooling.
        norm: `batch` as published, or `group`: groups of 16 channels of one image.
        transform: preprocessing; 28 x 28 pixels in [0, 1] by default.
    """

    name = "conv4"
    depth = 0
    num_heads = 0
    licence = Licence("Apache-2.0", True, "weights are yours: this network is trained from scratch")
    pooling = "patches"

    def __init__(
        self,
        width: int | Sequence[int] = 64,
        output_stride: int = 16,
        norm: Norm = "batch",
        transform: Transform | None = None,
    ) -> None:
        super().__init__()
        widths = [width] * 4 if isinstance(width, int) else list(width)
        if len(widths) != 4 or min(widths) < 1:
            raise InvalidInput(f"width is {width}; expected at least 1, or four such numbers.")
        if output_stride not in (8, 16) or norm not in ("batch", "group"):
            raise InvalidInput(
                f"output_stride is {output_stride} and norm {norm!r}; expected 8 or 16, and 'batch' or 'group'."
            )
        if norm == "group" and any(each > GROUP and each % GROUP for each in widths):
            raise InvalidInput(f"width is {width}; group norm takes multiples of {GROUP}.")
        self.dim, self.stride, self.norm = widths[-1], output_stride, norm
        self.transform = transform or Transform(size=(28, 28), mode="squash", mean=(0.0,) * 3, std=(1.0,) * 3)
        channels = [3, *widths]
        self.blocks = nn.Sequential(
            *(_block(channels[n], channels[n + 1], norm, n < 3 or output_stride == 16) for n in range(4))
        )

    @property
    def couples_images(self) -> bool:  # type: ignore[override]
        """In training mode the moments of a batch join its images."""
        return self.training and self.norm == "batch"

    def features(
        self, images: Tensor, request: Request = Request(), mask: TokenMask | None = None
    ) -> Features:
        """Patch tokens.

        Raises:
            InvalidInput: a mask or blocks, attention or keys were asked for, or the images are smaller than the stride.
        """
        sizes = check_shapes(images=(images, "B 3 H W"))
        if mask is not None or request != Request():
            raise InvalidInput(
                "conv4 has no tokens to mask, no blocks, attention or keys; choose a vision transformer."
            )
        if min(sizes["H"], sizes["W"]) < self.stride:
            raise InvalidInput(
                f"images are {sizes['H']} x {sizes['W']} pixels; conv4 needs at least {self.stride} x {self.stride}."
            )
        return Features(patches=self.blocks(images).permute(0, 2, 3, 1))
