"""The bundled backbone: a small network with the interface of a vision transformer.

A convolutional trunk (MobileNetV2 up to 320 channels, dilated to stride 16) makes the patch embeddings; four
pre-norm transformer blocks of width 256 work on them and a class token. Position embeddings are kept for an
8 x 8 grid and resampled (bicubic) for others, so any input from 64 to 384 px works, square or not. How it was
trained, on what, and what it is worth stands in `fewsight/weights/bundled.md`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone, Licence, TokenMask
from fewsight.backbones.features import BlockTokens, Features, Request
from fewsight.backbones.mobilenet_v2 import Trunk
from fewsight.data.transform import Transform
from fewsight.errors import IncompatibleModel, InvalidInput, MissingWeights
from fewsight.shapes import check_shapes

__all__ = ["Attention", "Block", "BundledBackbone", "load_bundled"]

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
GRID = 8  # side of the grid that position embeddings are kept for
SMALLEST, LARGEST = 64, 384  # sides of inputs in pixels


class Projections(NamedTuple):
    """Queries, keys and values of one block, each `[B, n, T, d]`; token 0 is the class token."""

    query: Tensor
    key: Tensor
    value: Tensor


class Attention(nn.Module):
    """Multi-head self-attention with q, k and v in one matrix."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def projections(self, tokens: Tensor) -> Projections:
        """Of tokens `[B, T, D]`."""
        B, T, D = tokens.shape
        qkv = self.qkv(tokens).reshape(B, T, 3, self.num_heads, D // self.num_heads)
        return Projections(*qkv.permute(2, 0, 3, 1, 4).unbind(0))  # each [B, n, T, d]

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, T, D]` to `[B, T, D]`."""
        return self.mix(self.projections(tokens))

    def mix(self, projections: Projections) -> Tensor:
        """Attention's output, `[B, T, D]`."""
        mixed = F.scaled_dot_product_attention(*projections)  # [B, n, T, d]
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(dim, mlp_ratio * dim))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(mlp_ratio * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, T, D]` to `[B, T, D]`."""
        return self.with_projections(tokens)[0]

    def with_projections(self, tokens: Tensor) -> tuple[Tensor, Projections]:
        """The output, and the q, k, v that made it."""
        projections = self.attn.projections(self.norm1(tokens))
        tokens = tokens + self.attn.mix(projections)
        return tokens + self.mlp(self.norm2(tokens)), projections


class BundledBackbone(Backbone):
    """The network with random weights; `load_bundled` gives the trained one.

    >>> features = BundledBackbone().eval().features(torch.zeros(2, 3, 64, 96), Request(keys=True))
    >>> [list(part.shape) for part in (features.cls, features.patches, features.keys)]
    [[2, 256], [2, 4, 6, 256], [2, 4, 4, 6, 64]]
    """

    name = "fewsight-bundled"
    dim = 256
    depth = 4
    num_heads = 4
    stride = 16
    pooling = "patches"
    licence = Licence("Apache-2.0", None, "random weights of our own")
    transform = Transform(size=(192, 192), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.embed = nn.Conv2d(self.trunk.dim, self.dim, 1)
        self.cls_token = nn.Parameter(torch.empty(1, 1, self.dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.dim))
        self.pos_embed = nn.Parameter(torch.empty(1, GRID, GRID, self.dim))
        self.blocks = nn.ModuleList(Block(self.dim, self.num_heads) for _ in range(self.depth))
        self.norm = nn.LayerNorm(self.dim, eps=1e-6)
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)

    def features(
        self, images: Tensor, request: Request = Request(), mask: TokenMask | None = None
    ) -> Features:
        """Tokens of normalised images `[B, 3, H, W]`, H and W from 64 to 384 (no multiple needed).

        The grid is `ceil(H / 16) x ceil(W / 16)`. `mask` acts on the patch embeddings, behind the trunk, whose
        convolutions have seen the neighbourhood of a hidden patch: hidden here means hidden from the blocks.
        The attention that is returned is computed in float32 from the queries and keys that the blocks use.

        Raises:
            InvalidInput: images or mask have a wrong shape, or `drop` hides unequal counts.
        """
        sizes = check_shapes(images=(images, "B 3 H W"))
        if not all(SMALLEST <= sizes[side] <= LARGEST for side in "HW"):
            raise InvalidInput(
                f"images have {sizes['H']} x {sizes['W']} pixels; {self.name} takes sides from {SMALLEST} to "
                f"{LARGEST}: choose another image size."
            )
        # Convolutions are 1.4 to 1.6 times as fast with channels last in memory.
        maps = self.trunk(images.contiguous(memory_format=torch.channels_last))
        return self.encode(maps, request, mask)

    def encode(self, maps: Tensor, request: Request = Request(), mask: TokenMask | None = None) -> Features:
        """Features from the trunk's maps `[B, 320, h, w]`."""
        patches = self.embed(maps).permute(0, 2, 3, 1)  # [B, h, w, D]
        position = self.position(*patches.shape[1:3])
        if mask is not None:
            check_shapes(**{"mask.hidden": (mask.hidden, "B h w"), "patches": (patches, "B h w D")})
            if mask.mode == "replace":
                patches = torch.where(mask.hidden[..., None], self.mask_token.to(patches.dtype), patches)
        patches = patches + position
        if mask is not None and mask.mode == "drop":
            patches = _kept(patches, mask.hidden)
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches.flatten(1, 2)], dim=1)
        return self._through_blocks(tokens, patches.shape[1:3], request)

    def position(self, h: int, w: int) -> Tensor:
        """Position embeddings of an h x w grid, `[1, h, w, D]`."""
        if (h, w) == (GRID, GRID):
            return self.pos_embed
        kept = self.pos_embed.permute(0, 3, 1, 2).float()
        resampled = F.interpolate(kept, size=(h, w), mode="bicubic", align_corners=False)
        return resampled.permute(0, 2, 3, 1).to(self.pos_embed.dtype)

    def _through_blocks(self, tokens: Tensor, grid: tuple[int, int], request: Request) -> Features:
        outputs, wanted = {}, request.block_indices(self.depth)
        for index, block in enumerate(cast("list[Block]", self.blocks)):
            tokens, projections = block.with_projections(tokens)
            if index in wanted:
                outputs[index] = self.norm(tokens) if request.normed else tokens
        tokens = self.norm(tokens)
        B = tokens.shape[0]
        heads = (B, self.num_heads, *grid)
        keys = projections.key[:, :, 1:]  # [B, n, h w, d]
        return Features(
            cls=tokens[:, 0],
            patches=tokens[:, 1:].reshape(B, *grid, self.dim),
            blocks=_block_tokens([outputs[index] for index in wanted], grid) if wanted else None,
            keys=keys.reshape(*heads, -1) if request.keys else None,
            class_query=projections.query[:, :, 0] if request.class_query else None,
            attention=_class_attention(projections).reshape(heads) if request.attention else None,
        )


def _kept(patches: Tensor, hidden: Tensor) -> Tensor:
    """The patches that are not hidden, `[B, 1, K, D]`, in row-major order."""
    kept = (~hidden).flatten(1).sum(1)
    if len(kept) and (kept != kept[0]).any():
        raise InvalidInput(
            f"mask.hidden keeps {kept.min()} to {kept.max()} patches of an image; dropping needs the same "
            f"number in every image."
        )
    return patches[~hidden].reshape(len(patches), 1, -1, patches.shape[-1])


def _block_tokens(outputs: list[Tensor], grid: tuple[int, int]) -> BlockTokens:
    tokens = torch.stack(outputs, dim=1)  # [B, L, 1 + h w, D]
    B, L, _, D = tokens.shape
    return BlockTokens(tokens[:, :, 0], tokens[:, :, 1:].reshape(B, L, *grid, D))


def _class_attention(projections: Projections) -> Tensor:
    """Softmax attention of the class token over all tokens, without its own column, `[B, n, h w]`."""
    query, key = projections.query[:, :, :1].float(), projections.key.float()
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5  # [B, n, 1, 1 + h w]
    return scores.softmax(-1)[:, :, 0, 1:]


def load_bundled(folder: Path = WEIGHTS) -> BundledBackbone:
    """The trained network, in evaluation mode, from `bundled.safetensors` and `bundled.json` in `folder`.

    Raises:
        MissingWeights: the files are not there.
        IncompatibleModel: the weights are not those that the description names.
    """
    from safetensors.torch import load

    try:
        description = json.loads((folder / "bundled.json").read_text(encoding="utf-8"))
        content = (folder / "bundled.safetensors").read_bytes()
    except FileNotFoundError as error:
        raise MissingWeights(
            f"{error.filename} is missing: it is part of fewsight; install the package again."
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != description["sha256"]:
        raise IncompatibleModel(
            f"{folder / 'bundled.safetensors'} has SHA-256 {found}, but bundled.json says {description['sha256']}: "
            "the file is damaged or was replaced; install the package again."
        )
    with torch.device("meta"):
        backbone = BundledBackbone()
    backbone.load_state_dict({name: tensor.float() for name, tensor in load(content).items()}, assign=True)
    _describe(backbone, description)
    return backbone.requires_grad_(True).eval()


def _describe(backbone: BundledBackbone, description: dict[str, Any]) -> None:
    backbone.licence = Licence(**description["licence"])
    backbone.transform = Transform.from_dict(description["transform"])
    backbone.pooling = description["pooling"]
