"""SimMIM: predict raw pixels of masked squares with one linear layer.

Xie, Zhang, Cao, Lin, Bao, Yao, Dai, Hu: SimMIM: A Simple Framework for Masked Image Modeling (CVPR 2022),
section 3. Masked tokens are replaced in the encoder; the loss is absolute error on masked pixels.

    L = sum(|x - x'| M) / ((sum(M) + 1e-5) C),  M the token mask repeated to pixels
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone, TokenMask
from fewsight.backbones.features import pool
from fewsight.data.views import ViewSpec
from fewsight.distributed import global_count, world_size
from fewsight.errors import InvalidInput
from fewsight.objectives.blocks import at_least_float32
from fewsight.objectives.crops import checked_views, patch_tokens
from fewsight.objectives.drawn_masks import patch_grid, square_masks
from fewsight.objectives.fixed_parts import give_mask_token
from fewsight.objectives.objective import Batch, Objective, Terms
from fewsight.objectives.pixel_heads import LinearPixels
from fewsight.objectives.ranges import check_within
from fewsight.objectives.teacher import set_drop_path
from fewsight.shapes import check_shapes

__all__ = ["SimMim", "SimMimSettings", "simmim_loss"]


def simmim_loss(images: Tensor, reconstruction: Tensor, mask: Tensor, patch_size: int) -> Tensor:
    """Mean absolute error of masked pixels over the whole batch (of all ranks).

    Args:
        images: `[B, C, H, W]`, normalised input; carries no gradient.
        reconstruction: same shape.
        mask: `[B, H/p, W/p]`, 1 = masked.
        patch_size: p, pixels per mask cell and side.

    Returns:
        Scalar; 0 for an empty mask.

    Raises:
        InvalidInput: shapes that do not fit.

    >>> simmim_loss(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4), torch.eye(2)[None], 2).item() > 0.999
    True
    """
    sizes = check_shapes(
        images=(images, "B C H W"), reconstruction=(reconstruction, "B C H W"), mask=(mask, "B h w")
    )
    p = patch_size
    if p < 1 or (sizes["h"] * p, sizes["w"] * p) != (sizes["H"], sizes["W"]):
        raise InvalidInput(
            f"mask has shape {list(mask.shape)} at patch_size {p}; expected {sizes['H']} x {sizes['W']} pixels."
        )
    masked = mask.bool().repeat_interleave(p, dim=1).repeat_interleave(p, dim=2)[:, None]  # [B, 1, H, W]
    difference = at_least_float32(reconstruction) - at_least_float32(images.detach())
    error = torch.where(masked, difference, 0).abs().sum()
    count = global_count(masked.sum().to(error.dtype) + 1e-5 / world_size())
    return error / (count * sizes["C"])


@dataclass(frozen=True)
class SimMimSettings:
    """Defaults of the authors' code for ViT-B.

    Attributes:
        mask_patch_size: side of the masked squares in pixels, in whole patches; None = 32 of 224, at least a patch.
        mask_ratio: masked share.
        scale: area of the crop.
        drop_path: stochastic depth of the last block.
    """

    mask_patch_size: int | None = None
    mask_ratio: float = 0.6
    scale: tuple[float, float] = (0.67, 1.0)
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        check_within(0, 1, mask_ratio=self.mask_ratio, drop_path=self.drop_path)


class SimMim(Objective):
    """Raw pixels of masked squares from one linear layer; a vision transformer."""

    settings_type = SimMimSettings

    def __init__(self, backbone: Backbone, settings: SimMimSettings = SimMimSettings()) -> None:
        super().__init__()
        give_mask_token(backbone)
        set_drop_path(backbone, settings.drop_path)
        self.encoder = backbone
        self.decoder = LinearPixels(backbone.dim, backbone.stride)
        self.settings = settings
        self.mask_patch_size = settings.mask_patch_size or _square(backbone)
        self.views = (ViewSpec(1, backbone.image_size[0], "crop_flip", settings.scale),)
        self._seen: dict[str, Tensor] = {}

    def backbone(self) -> nn.Module:
        """The encoder."""
        return self.encoder

    def forward(self, batch: Batch) -> Terms:
        """`reconstruction`."""
        (images,) = checked_views(batch, self.views)
        patch_grid(self.encoder, images)
        p = self.encoder.stride
        ratio = self.settings.mask_ratio
        mask = square_masks(batch, images, mask_patch_size=self.mask_patch_size, patch_size=p, ratio=ratio)
        found = self.encoder.features(images, mask=TokenMask(mask.bool()))
        loss = simmim_loss(images, self.decoder(patch_tokens(found)), mask, p)
        self._seen = {"features": pool(found, "patches").detach()}
        return Terms({"reconstruction": loss})

    def watched(self) -> dict[str, Tensor]:
        """Mean patch tokens of the masked photos."""
        return self._seen


def _square(backbone: Backbone) -> int:
    """The multiple of the patch nearest to 1/7 of the picture that divides it."""
    side, patch = backbone.image_size[0], backbone.stride
    fitting = [size for size in range(patch, side + 1, patch) if side % size == 0]
    return min(fitting, key=lambda size: (abs(size - side / 7), size))
