"""Convolutional networks of timm as backbones: their last feature map is the patch grid."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone, Licence, TokenMask
from fewsight.backbones.features import Features, Request
from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["ConvolutionalBackbone"]


class ConvolutionalBackbone(Backbone):
    """A timm network whose `forward_features` gives one map; no class token, blocks or attention.

    Args:
        model: made by timm; its head is not used.
        name, transform, licence: as in `Backbone`.
    """

    depth = 0
    num_heads = 0
    pooling = "patches"

    model: Any

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        transform: Transform | None = None,
        licence: Licence | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.model.reset_classifier(0, "")
        self.name = name
        self.dim = int(self.model.num_features)
        self.stride = int(self.model.feature_info[-1]["reduction"])
        self.licence = licence or Licence("unknown", None)
        self.transform = transform or Transform()

    def features(
        self, images: Tensor, request: Request = Request(), mask: TokenMask | None = None
    ) -> Features:
        """The last map of images `[B, 3, H, W]` of any size, as patches `[B, h, w, D]`.

        Raises:
            InvalidInput: blocks, keys, attention or hidden patches are asked for, which only transformers have.
        """
        check_shapes(images=(images, "B 3 H W"))
        if request != Request(normed=request.normed) or mask is not None:
            raise InvalidInput(
                f"{self.name} is a convolutional network, without blocks, keys, attention and mask tokens; choose a "
                "vision transformer (`fewsight backbones` lists them)."
            )
        maps = self.model.forward_features(images)
        if maps.ndim != 4:
            raise InvalidInput(
                f"{self.name} gives {list(maps.shape)}, not one map [B, D, h, w]; fewsight cannot use it."
            )
        return Features(
            patches=maps if maps.shape[-1] == self.dim != maps.shape[1] else maps.permute(0, 2, 3, 1)
        )
