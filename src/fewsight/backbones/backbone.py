"""`Backbone`: images in, `Features` out, and everything a model folder must know about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fewsight.backbones.features import Features, Pooling, Request
from fewsight.data.transform import Transform

__all__ = ["Backbone", "Licence", "TokenMask"]


@dataclass(frozen=True)
class Licence:
    """Licence of weights: its name, whether it allows commercial use, and a note (source, terms of the data)."""

    name: str
    commercial: bool | None  # None: not known
    note: str = ""


@dataclass(frozen=True)
class TokenMask:
    """Patches hidden from a backbone: `hidden` bool [B, h, w], True = hidden.

    `replace` puts a mask token in their place (before position embeddings, as SimMIM, BEiT and iBOT do); `drop`
    leaves them out of all blocks (MAE, MSN) and needs the same count in every image. With `drop` the patch
    tokens come back as `[B, 1, K, D]`, K kept patches in row-major order.
    """

    hidden: Tensor
    mode: Literal["replace", "drop"] = "replace"


class Backbone(nn.Module, ABC):
    """A network that turns images into tokens.

    Attributes:
        name: the name that `load_backbone` takes.
        dim: width D of the tokens.
        depth: number of blocks (0 for a convolutional network).
        num_heads: attention heads of a block (0 for a convolutional network).
        stride: pixels from one patch token to the next.
        licence: of the weights.
        couples_images: whether an image's features depend on the other images of its batch (batch moments).
        pooling: which tokens serve as the vector of an image.
        transform: the preprocessing that the weights were made for; saved with every model.
    """

    name: str
    dim: int
    depth: int
    num_heads: int
    stride: int
    licence: Licence
    couples_images: bool = False
    pooling: Pooling = "cls"
    transform: Transform

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the input that `transform` makes, in pixels."""
        return self.transform.size

    @property
    def vector_dim(self) -> int:
        """Width of the vector of an image, by `pooling`."""
        return 2 * self.dim if self.pooling == "cls+patches" else self.dim

    @property
    def mean(self) -> tuple[float, float, float]:
        """Channel means of the normalisation."""
        return self.transform.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Channel deviations of the normalisation."""
        return self.transform.std

    @abstractmethod
    def features(
        self, images: Tensor, request: Request = Request(), mask: TokenMask | None = None
    ) -> Features:
        """Tokens of normalised images.

        Args:
            images: `[B, 3, H, W]`, normalised by `mean` and `std`; H and W multiples of the patch size.
            request: what is wanted besides class and patch tokens.
            mask: patches to hide.
        """

    def encode_episode(
        self, support: Tensor, query: Tensor, request: Request = Request()
    ) -> tuple[Features, Features]:
        """Features of the supports and of the queries of one episode.

        Networks whose batch norm takes its moments from the supports override this.
        """
        return self.features(support, request), self.features(query, request)

    def forward(self, images: Tensor) -> Tensor:
        """One vector for each image, `[B, D]`, by `pooling`."""
        from fewsight.backbones.features import pool

        return pool(self.features(images), self.pooling)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device
