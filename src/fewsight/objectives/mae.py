"""MAE: masked autoencoders.

He, Chen, Xie, Li, Dollár, Girshick: Masked Autoencoders Are Scalable Vision Learners (CVPR 2022), section 3. The
encoder sees the kept patches only; a small decoder, given mask tokens in the other places, predicts the pixels.

    L = sum over masked patches of the batch of  mean (prediction - target)^2  /  number of masked patches

The target is the normalised image; with `norm_pix_loss` each patch is standardised first, its variance with n - 1
and 1e-6 inside the root.

Differs from the authors' code: an empty mask gives 0, not NaN; images may be rectangular where the position
tables are; targets, variances and the loss are float32 at least.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewsight.backbones.positions import sincos_position_embedding
from fewsight.distributed import global_count
from fewsight.errors import InvalidInput
from fewsight.objectives.blocks import at_least_float32
from fewsight.objectives.masking import patchify, random_mask
from fewsight.shapes import check_shapes

__all__ = ["AutoencoderSizes", "Block", "MaeOutput", "MaskedAutoencoder", "mae_loss", "position_table"]


def mae_loss(images: Tensor, pred: Tensor, mask: Tensor, patch_size: int, norm_pix_loss: bool) -> Tensor:
    """Mean squared error of masked patches, pooled over the batch (of all ranks).

    Args:
        images: `[B, C, H, W]`, normalised; carries no gradient.
        pred: `[B, L, p p C]`, in the order of `patchify`.
        mask: `[B, L]`, 1 = masked.
        patch_size: p.
        norm_pix_loss: whether each target patch is standardised by its own mean and deviation.

    Returns:
        Scalar; 0 for an empty mask.

    Raises:
        InvalidInput: shapes that do not fit.

    >>> mae_loss(torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 12), torch.ones(1, 4), 2, False).item()
    1.0
    """
    target = patchify(at_least_float32(images.detach()), patch_size)
    check_shapes(target=(target, "B L V"), pred=(pred, "B L V"), mask=(mask, "B L"))
    if norm_pix_loss:
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    errors = (at_least_float32(pred) - target).square().mean(dim=-1)  # [B, L]
    masked = mask.bool()
    count = global_count(masked.sum().to(errors.dtype))
    return torch.where(masked, errors, 0).sum() / torch.where(count > 0, count, 1)


@dataclass(frozen=True)
class AutoencoderSizes:
    """Widths and depths of encoder and decoder; the defaults are the published ViT-B/16 (section 4)."""

    grid_size: tuple[int, int] = (14, 14)
    patch_size: int = 16
    channels: int = 3
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    decoder_mlp_dim: int = 2048

    def __post_init__(self) -> None:
        for dim, heads in ((self.dim, self.num_heads), (self.decoder_dim, self.decoder_num_heads)):
            if heads < 1 or dim % heads:
                raise InvalidInput(
                    f"num_heads is {heads} for a width of {dim}; expected a divisor of the width."
                )


class MaeOutput(NamedTuple):
    """Loss, prediction `[B, L, p p C]` of all patches, and mask `[B, L]`, 1 = masked."""

    loss: Tensor
    pred: Tensor
    mask: Tensor


class MaskedAutoencoder(nn.Module):
    """Encoder and decoder with the parameter names of the published files; timm reads the encoder unchanged."""

    pos_embed: Tensor
    decoder_pos_embed: Tensor

    def __init__(self, sizes: AutoencoderSizes | None = None) -> None:
        super().__init__()
        self.sizes = sizes = sizes or AutoencoderSizes()
        dim, decoder_dim, p = sizes.dim, sizes.decoder_dim, sizes.patch_size
        self.patch_embed = _PatchEmbedding(sizes.channels, dim, p)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.register_buffer("pos_embed", position_table(dim, sizes.grid_size))
        self.register_buffer("decoder_pos_embed", position_table(decoder_dim, sizes.grid_size))
        self.blocks = nn.ModuleList(Block(dim, sizes.num_heads, sizes.mlp_dim) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_dim, sizes.decoder_num_heads, sizes.decoder_mlp_dim)
            for _ in range(sizes.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_dim, p * p * sizes.channels)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(self.sizes.dim, -1))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    @classmethod
    def from_state_dict(
        cls, state_dict: Mapping[str, Any], num_heads: int, decoder_num_heads: int
    ) -> MaskedAutoencoder:
        """Rebuild from a full pretraining file; all sizes but the numbers of heads are read from shapes.

        Args:
            state_dict: parameters by name, or the file's dictionary that holds them under `model`.
            num_heads, decoder_num_heads: not recorded in the file.

        Raises:
            InvalidInput: keys that are missing (files with the encoder only) or unknown, heads that do not fit.
        """
        tensors = state_dict.get("model", state_dict)
        network = cls(_read_sizes(tensors, num_heads, decoder_num_heads))
        expected = network.state_dict()
        missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
        misfits = [
            key for key in expected.keys() & tensors.keys() if tensors[key].shape != expected[key].shape
        ]
        if missing or unknown or misfits:
            raise InvalidInput(
                f"state_dict does not hold a masked autoencoder: missing {missing[:3]}, unknown {unknown[:3]}, "
                f"of another shape {sorted(misfits)[:3]}; expected a full file with encoder and decoder."
            )
        network.to(tensors["cls_token"].dtype).load_state_dict(dict(tensors))
        return network

    def forward(
        self, images: Tensor, noise: Tensor, mask_ratio: float = 0.75, norm_pix_loss: bool = True
    ) -> MaeOutput:
        """Mask by `noise` `[B, L]` (see `random_mask`), encode, decode, and compare with the pixels.

        Raises:
            InvalidInput: images whose grid is not that of the position tables.
        """
        tokens = self._embed(images)
        check_shapes(tokens=(tokens, "B L D"), noise=(noise, "B L"))
        ids_keep, mask, ids_restore = random_mask(noise, mask_ratio)
        kept = tokens.gather(1, ids_keep[..., None].expand(-1, -1, tokens.shape[-1]))
        pred = self._decode(self._encode(kept), ids_restore)
        loss = mae_loss(images, pred, mask, self.sizes.patch_size, norm_pix_loss)
        return MaeOutput(loss, pred, mask.to(loss.dtype))

    def _embed(self, images: Tensor) -> Tensor:
        """Patch tokens with positions, `[B, L, D]`."""
        p, (h, w) = self.sizes.patch_size, self.sizes.grid_size
        check_shapes(images=(images, f"B {self.sizes.channels} {h * p} {w * p}"))
        patches: Tensor = self.patch_embed(images.to(self.cls_token.dtype))
        return patches + self.pos_embed[:, 1:]

    def _encode(self, kept: Tensor) -> Tensor:
        """Class token and kept patches through the encoder, `[B, 1 + K, D]`."""
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(kept), -1, -1)
        tokens = torch.cat([cls_token, kept], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def _decode(self, encoded: Tensor, ids_restore: Tensor) -> Tensor:
        """Mask tokens in the places that were dropped; pixels of all patches, `[B, L, p p C]`."""
        B, L = ids_restore.shape
        tokens = self.decoder_embed(encoded)  # [B, 1 + K, D']
        blanks = self.mask_token.to(tokens.dtype).expand(B, L + 1 - tokens.shape[1], -1)
        patches = torch.cat([tokens[:, 1:], blanks], dim=1)
        patches = patches.gather(1, ids_restore[..., None].expand(-1, -1, patches.shape[-1]))
        tokens = torch.cat([tokens[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            tokens = block(tokens)
        return self.decoder_pred(self.decoder_norm(tokens))[:, 1:]


class _PatchEmbedding(nn.Module):
    def __init__(self, channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # [B, L, D]


class _Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        B, N, D = tokens.shape
        qkv = self.qkv(tokens).view(B, N, 3, self.num_heads, D // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, N, D / heads]
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(B, N, D))


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Pre-norm attention and MLP, as in the authors' encoder and decoder."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = _Attention(dim, num_heads), _Mlp(dim, mlp_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


def position_table(dim: int, grid_size: tuple[int, int]) -> Tensor:
    """Sine-cosine positions of class token and patches, `[1, 1 + h w, dim]`."""
    return sincos_position_embedding(dim, grid_size, cls_token=True)[None]


def _read_sizes(tensors: Mapping[str, Tensor], num_heads: int, decoder_num_heads: int) -> AutoencoderSizes:
    """Sizes from the shapes of a full file."""
    try:
        dim, channels, p, _ = tensors["patch_embed.proj.weight"].shape
        patches = tensors["pos_embed"].shape[1] - 1
        side = math.isqrt(patches)
        if side * side != patches:
            raise InvalidInput(f"pos_embed holds {patches} patches; expected a square grid, as published.")
        return AutoencoderSizes(
            grid_size=(side, side),
            patch_size=p,
            channels=channels,
            dim=dim,
            depth=_depth(tensors, "blocks."),
            num_heads=num_heads,
            mlp_dim=tensors["blocks.0.mlp.fc1.weight"].shape[0],
            decoder_dim=tensors["decoder_embed.weight"].shape[0],
            decoder_depth=_depth(tensors, "decoder_blocks."),
            decoder_num_heads=decoder_num_heads,
            decoder_mlp_dim=tensors["decoder_blocks.0.mlp.fc1.weight"].shape[0],
        )
    except KeyError as missing:
        raise InvalidInput(
            f"state_dict has no key {missing}; expected a full pretraining file with encoder and decoder."
        ) from missing


def _depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len({key.split(".")[1] for key in tensors if key.startswith(prefix)})
