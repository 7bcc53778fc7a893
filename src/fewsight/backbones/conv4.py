"""Conv-4: four blocks of 3 x 3 convolution, batch norm, ReLU and 2 x 2 max pooling, 64 channels each.

The network of Vinyals et al. 2016 and Snell et al. 2017 (appendix): 28 x 28 pixels become one vector of 64, 84 x 84
a map of 5 x 5. In training its batch norm takes the moments of the batch, in evaluation the running averages.
"""

from __future__ import annotations

from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone, Licence, TokenMask
from fewsight.backbones.features import Features, Request
from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["Conv4"]


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


class Conv4(Backbone):
    """Images `[B, 3, H, W]` -> patches `[B, H // 16, W // 16, width]`; no class token, no blocks.

    Args:
        width: channels of each block; 64 as published.
        transform: preprocessing; 28 x 28 pixels in [0, 1] by default.
    """

    name = "conv4"
    depth = 0
    num_heads = 0
    stride = 16
    licence = Licence("Apache-2.0", True, "weights are yours: this network is trained from scratch")
    pooling = "patches"

    def __init__(self, width: int = 64, transform: Transform | None = None) -> None:
        super().__init__()
        if width < 1:
            raise InvalidInput(f"width is {width}; expected at least 1.")
        self.dim = width
        self.transform = transform or Transform(size=(28, 28), mode="squash", mean=(0.0,) * 3, std=(1.0,) * 3)
        self.blocks = nn.Sequential(_block(3, width), *(_block(width, width) for _ in range(3)))

    @property
    def couples_images(self) -> bool:  # type: ignore[override]
        """In training mode the moments of a batch join its images."""
        return self.training

    def features(
        self, images: Tensor, request: Request = Request(), mask: TokenMask | None = None
    ) -> Features:
        """Patch tokens.

        Raises:
            InvalidInput: a mask or blocks, attention or keys were asked for, or the images are under 16 pixels.
        """
        sizes = check_shapes(images=(images, "B 3 H W"))
        if mask is not None or request != Request():
            raise InvalidInput(
                "conv4 has no tokens to mask, no blocks, attention or keys; choose a vision transformer."
            )
        if min(sizes["H"], sizes["W"]) < self.stride:
            raise InvalidInput(
                f"images are {sizes['H']} x {sizes['W']} pixels; conv4 needs at least 16 x 16."
            )
        return Features(patches=self.blocks(images).permute(0, 2, 3, 1))
