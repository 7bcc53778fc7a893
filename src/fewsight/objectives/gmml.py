"""GMML: reconstruct the pixels of connected corrupted groups of tokens.

Atito, Awais, Kittler: GMML is All You Need (arXiv 2205.14986). Blocks of the input are overwritten by noise,
zeros or another image (`fewsight.objectives.masking.gmml_corrupt`); the loss looks at overwritten pixels only.

Differs from the authors' code: a batch without a corrupted pixel gives 0, not NaN; another image is never the image
itself, and comes from the batch of all ranks: each rank sends its pictures to the others once a view.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.features import pool
from fewsight.data.views import ViewSpec
from fewsight.distributed import all_reduce_sum, gathered_rows, global_count
from fewsight.errors import InvalidInput
from fewsight.objectives.blocks import at_least_float32
from fewsight.objectives.crops import checked_views, patch_tokens
from fewsight.objectives.drawn_masks import partners, patch_grid, photo_keys, pixel_masks
from fewsight.objectives.objective import Batch, Objective, Terms
from fewsight.objectives.pixel_heads import PixelHead
from fewsight.objectives.ranges import check_choice, check_settings, check_within
from fewsight.objectives.teacher import set_drop_path
from fewsight.seeding import torch_generator

__all__ = ["Corrupted", "CorruptionSettings", "Gmml", "GmmlSettings", "corrupted", "masked_pixel_loss"]


def masked_pixel_loss(
    reconstruction: Tensor, image: Tensor, mask: Tensor, norm: Literal["l1", "l2"] = "l1"
) -> Tensor:
    """Mean absolute (`l1`) or squared (`l2`) error over all channels of all corrupted pixels, pooled.

    The mean runs over the corrupted pixels of the whole batch (of all ranks), not image by image first.

    Args:
        reconstruction: `[..., C, H, W]`, in normalised pixel units.
        image: the clean picture, same shape; carries no gradient.
        mask: `[..., H, W]` or `[..., 1, H, W]`, True or 1 = corrupted.

    Returns:
        Scalar; 0 where nothing is corrupted.

    Raises:
        InvalidInput: shapes that do not fit, an unknown norm.

    >>> masked_pixel_loss(torch.ones(3, 2, 2), torch.zeros(3, 2, 2), torch.eye(2)).item()
    1.0
    """
    check_choice(("l1", "l2"), norm=norm)
    if reconstruction.shape != image.shape or image.ndim < 3:
        raise InvalidInput(
            f"reconstruction has shape {list(reconstruction.shape)}; expected that of image, "
            f"{list(image.shape)}, as [..., C, H, W]."
        )
    if mask.ndim == image.ndim and mask.shape[-3] == 1:
        mask = mask.squeeze(-3)
    if mask.shape != (*image.shape[:-3], *image.shape[-2:]):
        raise InvalidInput(
            f"mask has shape {list(mask.shape)}; expected {list(image.shape)} without the channels."
        )
    corrupted = mask.bool().unsqueeze(-3)  # [..., 1, H, W]
    difference = at_least_float32(reconstruction) - at_least_float32(image.detach())
    # Selected, not multiplied: what stands in pixels that do not count may even be NaN.
    difference = torch.where(corrupted, difference, 0)
    error = difference.abs().sum() if norm == "l1" else difference.square().sum()
    count = global_count(corrupted.sum().to(error.dtype)) * image.shape[-3]
    # A rank may hold less than one corrupted pixel on average; an empty batch gives 0.
    return error / torch.where(count > 0, count, 1)


@dataclass(frozen=True)
class CorruptionSettings:
    """How photos are corrupted.

    Attributes:
        drop: largest share of pixels overwritten with `fill`.
        fill: zeros (the mean colour), or normal noise drawn photo by photo.
        replace: largest share overwritten by another photo of the batch.
        replace_probability: how many photos take the second kind in place of the first.
        align: grid of the rectangles in pixels; None = the patch size, so that whole tokens are corrupted.
        max_block: longest side of a rectangle as a share of the picture's; longer where `align` needs it.
    """

    drop: float = 0.5
    fill: Literal["zeros", "noise"] = "zeros"
    replace: float = 0.3
    replace_probability: float = 0.5
    align: int | None = None
    max_block: float = 0.3

    def __post_init__(self) -> None:
        check_choice(("zeros", "noise"), fill=self.fill)
        check_settings(self, shares=("drop", "replace", "replace_probability", "max_block"))


@dataclass(frozen=True)
class Corrupted:
    """Pictures `[B, 3, H, W]`, and bool `[B, H, W]`, True = overwritten."""

    images: Tensor
    mask: Tensor


def corrupted(
    images: Tensor, batch: Batch, settings: CorruptionSettings, *, patch_size: int, view: int = 0
) -> Corrupted:
    """Overwrite rectangles of each photo; a function of (seed, step, photo, view)."""
    align = settings.align or patch_size
    side = min(images.shape[-2:])
    # A block must be able to exceed the grid that it lies on.
    longest = max(settings.max_block, (align + 1.5) / side)
    total = int(all_reduce_sum(torch.tensor(len(images), device=images.device)))
    second = settings.replace_probability if total > 1 else 0.0
    mask, replaced = pixel_masks(
        batch,
        images,
        view,
        fractions=(settings.drop, settings.replace),
        second=second,
        align=align,
        max_block=min(1.0, longest),
    )
    fill = torch.zeros_like(images)
    if settings.fill == "noise":
        fill = _noise(images, batch, view)
    if second:  # not whether any is replaced here: all ranks must ask for pictures together
        others = gathered_rows(images, partners(batch, images, total, view))
        fill = torch.where(replaced[:, None, None, None], others, fill)
    return Corrupted(torch.where(mask[:, None], fill, images), mask)


def _noise(images: Tensor, batch: Batch, view: int) -> Tensor:
    shape = images.shape[1:]
    drawn = [
        torch.randn(shape, generator=torch_generator(batch.seed, "pixel noise", batch.step, view, key))
        for key in photo_keys(batch, len(images))
    ]
    return torch.stack(drawn).to(images)


@dataclass(frozen=True)
class GmmlSettings:
    """Defaults of the authors' code.

    Attributes:
        corruption: of the input.
        error: `l1` or `l2`.
        scale: area of the crop.
        drop_path: stochastic depth of the last block.
    """

    corruption: CorruptionSettings = field(default_factory=CorruptionSettings)
    error: Literal["l1", "l2"] = "l1"
    scale: tuple[float, float] = (0.25, 1.0)
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        check_choice(("l1", "l2"), error=self.error)
        check_within(0, 1, drop_path=self.drop_path)


class Gmml(Objective):
    """Pixels of overwritten rectangles from a small head; any backbone whose tokens lie on a grid of patches."""

    settings_type = GmmlSettings

    def __init__(self, backbone: Backbone, settings: GmmlSettings = GmmlSettings()) -> None:
        super().__init__()
        set_drop_path(backbone, settings.drop_path)
        self.encoder = backbone
        self.decoder = PixelHead(backbone.dim, backbone.stride)
        self.settings = settings
        self.views = (ViewSpec(1, backbone.image_size[0], "gmml", settings.scale),)
        self._seen: dict[str, Tensor] = {}

    def backbone(self) -> nn.Module:
        """The encoder."""
        return self.encoder

    def forward(self, batch: Batch) -> Terms:
        """`reconstruction`."""
        (images,) = checked_views(batch, self.views)
        patch_grid(self.encoder, images)
        spoilt = corrupted(images, batch, self.settings.corruption, patch_size=self.encoder.stride)
        found = self.encoder.features(spoilt.images)
        loss = masked_pixel_loss(self.decoder(patch_tokens(found)), images, spoilt.mask, self.settings.error)
        self._seen = {"features": pool(found, "patches").detach()}
        return Terms({"reconstruction": loss})

    def watched(self) -> dict[str, Tensor]:
        """Mean patch tokens of the corrupted photos."""
        return self._seen
