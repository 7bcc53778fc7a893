"""ResNet-12: four residual blocks of three 3 x 3 convolutions, the usual network of few-shot papers at 84 pixels.

Boris Oreshkin et al., "TADAM", NeurIPS 2018; widths 64, 160, 320, 640 of Kwonjoon Lee et al., "Meta-Learning with
Differentiable Convex Optimization", CVPR 2019 (arXiv 1904.03758). 84 x 84 pixels become a map of 5 x 5 x 640.

Differs from the authors' code: no DropBlock; dropout of whole maps can be set instead.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone, Licence, TokenMask
from fewsight.backbones.features import Features, Request
from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["ResNet12"]

WIDTHS = (64, 160, 320, 640)


class _Block(nn.Module):
    """Three convolutions with norms, the shortcut added before the last activation, 2 x 2 max pooling, dropout."""

    def __init__(self, channels_in: int, channels_out: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(3):
            first = channels_in if number == 0 else channels_out
            layers += [nn.Conv2d(first, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out)]
            layers += [nn.LeakyReLU(0.1)] if number < 2 else []
        self.body = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
        )
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, maps: Tensor) -> Tensor:
        return self.dropout(F.max_pool2d(F.leaky_relu(self.body(maps) + self.shortcut(maps), 0.1), 2))


class ResNet12(Backbone):
    """Images `[B, 3, H, W]` -> patches `[B, H // 16, W // 16, 640]`; no class token, no blocks.

    Args:
        dropout: share of maps left out after each block in training.
        transform: preprocessing; 84 x 84 pixels with ImageNet's mean and deviation by default.
    """

    name = "resnet12"
    dim = WIDTHS[-1]
    depth = 0
    num_heads = 0
    stride = 16
    licence = Licence("Apache-2.0", True, "weights are yours: this network is trained from scratch")
    pooling = "patches"

    def __init__(self, *, dropout: float = 0.0, transform: Transform | None = None) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise InvalidInput(f"dropout is {dropout}; expected a number from 0 to below 1.")
        self.transform = transform or Transform(size=(84, 84), mode="squash")
        channels = (3, *WIDTHS)
        self.blocks = nn.Sequential(*(_Block(a, b, dropout) for a, b in zip(channels, WIDTHS, strict=False)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")

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
                "resnet12 has no tokens to mask, no blocks, attention or keys; choose a vision transformer."
            )
        if min(sizes["H"], sizes["W"]) < self.stride:
            raise InvalidInput(
                f"images are {sizes['H']} x {sizes['W']} pixels; resnet12 needs at least 16 x 16."
            )
        return Features(patches=self.blocks(images).permute(0, 2, 3, 1))
