"""MAE as an objective: any vision transformer as the encoder, around `fewsight.objectives.mae.mae_loss`.

He et al.: Masked Autoencoders Are Scalable Vision Learners (CVPR 2022), section 3.

Differs from the authors' code: kept patches stay in their order, which attention does not see; prefix tokens other
than the class token do not reach the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone, TokenMask
from fewsight.data.views import ViewSpec
from fewsight.errors import InvalidInput
from fewsight.objectives.crops import checked_views, patch_tokens
from fewsight.objectives.drawn_masks import noise, patch_grid
from fewsight.objectives.fixed_parts import fix_positions
from fewsight.objectives.mae import Block, mae_loss, position_table
from fewsight.objectives.masking import random_mask
from fewsight.objectives.objective import Batch, Objective, Terms
from fewsight.objectives.ranges import check_settings, check_within

__all__ = ["Mae", "MaeDecoder", "MaeSettings"]


@dataclass(frozen=True)
class MaeSettings:
    """Defaults of the authors' code.

    Attributes:
        mask_ratio: share of the patches that the encoder does not see.
        norm_pix_loss: whether target patches are standardised one by one.
        decoder_dim, decoder_depth, decoder_heads: of the decoder.
        fixed_positions: sine-cosine positions in the encoder that are not trained.
        scale: area of the crop.
    """

    mask_ratio: float = 0.75
    norm_pix_loss: bool = True
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    fixed_positions: bool = True
    scale: tuple[float, float] = (0.2, 1.0)

    def __post_init__(self) -> None:
        check_within(0, 1, mask_ratio=self.mask_ratio)
        check_settings(self, positive=("decoder_dim", "decoder_depth", "decoder_heads"))
        if self.decoder_dim % self.decoder_heads or self.decoder_dim % 4:
            raise InvalidInput(
                f"decoder_dim is {self.decoder_dim} with {self.decoder_heads} heads; expected a multiple of the heads "
                "and of 4."
            )


class MaeDecoder(nn.Module):
    """Class token and kept patches -> pixels of all patches."""

    positions: Tensor

    def __init__(self, dim: int, grid: tuple[int, int], values: int, settings: MaeSettings) -> None:
        super().__init__()
        width, heads = settings.decoder_dim, settings.decoder_heads
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.register_buffer("positions", position_table(width, grid), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(settings.decoder_depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pred = nn.Linear(width, values)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, cls: Tensor, kept: Tensor, hidden: Tensor) -> Tensor:
        """Pixels `[B, L, p p C]`.

        Args:
            cls: `[B, D]`.
            kept: `[B, K, D]`, in the order of the places where `hidden` is False.
            hidden: bool `[B, L]`.
        """
        tokens = self.embed(torch.cat([cls[:, None], kept], dim=1))
        place = (~hidden).cumsum(1)  # 0 is the class token, which only hidden places could ask for
        patches = tokens.gather(1, place[..., None].expand(-1, -1, tokens.shape[-1]))
        patches = torch.where(hidden[..., None], self.mask_token.to(tokens.dtype), patches)
        tokens = torch.cat([tokens[:, :1], patches], dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        pixels: Tensor = self.pred(self.norm(tokens))
        return pixels[:, 1:]


class Mae(Objective):
    """Pixels of dropped patches from the rest; a vision transformer with a class token."""

    settings_type = MaeSettings

    def __init__(self, backbone: Backbone, settings: MaeSettings = MaeSettings()) -> None:
        super().__init__()
        size, stride = backbone.image_size, backbone.stride
        if not backbone.depth:
            raise InvalidInput(f"{backbone.name} is no vision transformer: MAE cannot drop its patches.")
        if settings.fixed_positions:
            fix_positions(backbone)
        self.encoder = backbone
        grid = (size[0] // stride, size[1] // stride)
        self.decoder = MaeDecoder(backbone.dim, grid, stride * stride * 3, settings)
        self.settings = settings
        self.views = (ViewSpec(1, size[0], "crop_flip", settings.scale),)
        self._seen: dict[str, Tensor] = {}

    def backbone(self) -> Backbone:
        """The encoder."""
        return self.encoder

    def forward(self, batch: Batch) -> Terms:
        """`reconstruction`."""
        (images,) = checked_views(batch, self.views)
        h, w = patch_grid(self.encoder, images)
        drawn = random_mask(noise(batch, images, h * w), self.settings.mask_ratio)
        hidden = drawn.mask.bool()
        found = self.encoder.features(images, mask=TokenMask(hidden.view(-1, h, w), "drop"))
        if found.cls is None:
            raise InvalidInput(f"{self.encoder.name} has no class token; MAE needs one.")
        pred = self.decoder(found.cls, patch_tokens(found).flatten(1, 2), hidden)
        loss = mae_loss(images, pred, hidden, self.encoder.stride, self.settings.norm_pix_loss)
        self._seen = {"features": found.cls.detach()}
        return Terms({"reconstruction": loss})

    def watched(self) -> dict[str, Tensor]:
        """Class tokens of the masked photos."""
        return self._seen
