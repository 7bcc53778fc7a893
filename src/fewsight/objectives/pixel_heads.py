"""Light heads that turn patch tokens back into pixels: SimMIM's linear layer, GMML's and MC-SSL's small network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LinearPixels", "PixelHead"]


class LinearPixels(nn.Module):
    """One linear layer, then the pixels of each patch in its place.

    Source: Xie et al., SimMIM (CVPR 2022), section 3.3.
    """

    def __init__(self, dim: int, patch_size: int, channels: int = 3) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.layer = nn.Conv2d(dim, patch_size**2 * channels, 1)

    def forward(self, patches: Tensor) -> Tensor:
        """Tokens `[B, h, w, D]` -> images `[B, C, h p, w p]` in normalised pixel units."""
        return F.pixel_shuffle(self.layer(patches.permute(0, 3, 1, 2)), self.patch_size)


class PixelHead(nn.Module):
    """Two layers on every token, then a transposed convolution of the size of a patch.

    Source: Atito et al., GMML (arXiv 2205.14986) and MC-SSL (arXiv 2111.15340), code.
    """

    def __init__(self, dim: int, patch_size: int, channels: int = 3) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU())
        self.pixels = nn.ConvTranspose2d(dim, channels, patch_size, stride=patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        """Tokens `[B, h, w, D]` -> images `[B, C, h p, w p]` in normalised pixel units."""
        images: Tensor = self.pixels(self.mlp(patches).permute(0, 3, 1, 2))
        return images
