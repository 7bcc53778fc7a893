"""Vision transformers of timm as backbones.

Blocks run one after the other in plain sight, so that outputs, keys and attention need no hooks. Attention and
keys of the last block are computed again from its own input by its own q and k (with their norms, and with
whatever adaptor sits in the fused matrix): exact although the block itself uses fused attention that keeps no
attention matrix. The price is one more qkv product, about 2 % of a forward.

Letters: B images, D width, h x w patch grid, N tokens, P prefix tokens (class, distillation, registers), n heads,
d = D / n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone, Licence, TokenMask
from fewsight.backbones.features import BlockTokens, Features, Pooling, Request
from fewsight.backbones.positions import interpolate_position_embedding
from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["BeitBackbone", "PositionRule", "RotaryBackbone", "VisionTransformerBackbone"]


@dataclass(frozen=True)
class PositionRule:
    """How a table of position embeddings becomes one for another grid; part of the published features.

    Attributes:
        offset: of `interpolate_position_embedding`: 0.1 for DINO, iBOT and DINOv2, 0 for DINOv2 with registers
            and for MAE, `"msn"` for MSN.
        antialias: True for DINOv2 with registers, and in timm.
    """

    offset: float | Literal["msn"] = 0.0
    antialias: bool = True


class VisionTransformerBackbone(Backbone):
    """A `timm.models.vision_transformer.VisionTransformer`.

    The classification head is removed. Class and patch tokens are those after the final norm; where timm puts
    that norm behind the pooling (`fc_norm`), it is applied to every token instead.

    Args:
        model: made by timm for any input size; inputs of other sizes have its positions resampled.
        name, transform, licence, pooling: as in `Backbone`; `pooling` None takes the class token where there is
            one, unless timm's own head pools the patches.
        positions: the rule by which the weights' authors resample positions.
    """

    model: Any

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        transform: Transform | None = None,
        licence: Licence | None = None,
        positions: PositionRule = PositionRule(),
        pooling: Pooling | None = None,
    ) -> None:
        super().__init__()
        model = _without_head(model)
        self.model = model
        self.name = name
        self.positions = positions
        self.licence = licence or Licence("unknown", None)
        self.dim = int(self.model.embed_dim)
        self.depth = len(self.model.blocks)
        embed = self.model.patch_embed
        hybrid = hasattr(embed, "backbone")  # convolutions before the patches are cut
        self.patch_size: tuple[int, int] = tuple(
            embed.feat_ratio(as_scalar=False) if hybrid else embed.patch_size
        )
        self.stride = max(self.patch_size)
        self.num_heads = int(getattr(getattr(self.model.blocks[-1], "attn", None), "num_heads", 0))
        self.num_prefix = int(self.model.num_prefix_tokens)
        self.has_class_token = getattr(self.model, "cls_token", None) is not None
        self.transform = transform or Transform(size=tuple(self.model.patch_embed.img_size))
        averaged = self.model.global_pool == "avg" or not self.has_class_token
        self.pooling = pooling or ("patches" if averaged else "cls")
        self.mask_token: nn.Parameter | None = None

    def add_mask_token(self, value: Tensor | None = None) -> None:
        """Give the network a token that stands for hidden patches (`TokenMask` with `replace`).

        Args:
            value: `[D]`, or None for zeros, as iBOT starts.
        """
        made = self.model.patch_embed.proj.weight.new_zeros(self.dim) if value is None else value.reshape(-1)
        check_shapes(value=(made, str(self.dim)))
        self.mask_token = nn.Parameter(made.clone())

    def features(
        self, images: Tensor, request: Request = Request(), mask: TokenMask | None = None
    ) -> Features:
        """Tokens of normalised images; see `Backbone.features`.

        Keys and class query are those that the last block multiplies, after its query and key norms if it has
        them. Attention is a float32 softmax over all tokens; the columns of prefix tokens are cut off.

        Raises:
            InvalidInput: H or W is no multiple of the patch size; a requested block, class token or attention
                does not exist; the mask does not fit.
        """
        wanted = request.block_indices(self.depth)
        self._check_request(request)
        tokens, grid, shared = self._embed(images, mask)
        outputs: dict[int, Tensor] = {}
        for index, block in enumerate(self.model.blocks):
            last_input, tokens = tokens, self._run(block, tokens, shared, index)
            if index in wanted:
                outputs[index] = self._norm(tokens) if request.normed else tokens
        cls, patches = self._split(self._norm(tokens), grid)
        blocks = None
        if wanted:
            blocks = BlockTokens(*self._split(torch.stack([outputs[i] for i in wanted], 1), grid))
        return Features(cls, patches, blocks, *self._last_attention(last_input, grid, request, shared))

    # --- what comes before the blocks

    def _embed(self, images: Tensor, mask: TokenMask | None) -> tuple[Tensor, tuple[int, int], Any]:
        """Tokens `[B, P + N, D]`, their grid, and what every block shares (position bias, rotation)."""
        patches, grid = self._patches(images)
        if mask is not None:
            check_shapes(images=(images, "B 3 H W"), hidden=(mask.hidden, f"B {grid[0]} {grid[1]}"))
            if mask.mode == "replace":
                patches = self._replaced(patches, mask.hidden)
        tokens = self._positioned(patches, grid)
        if mask is not None and mask.mode == "drop":
            kept = self._kept(mask.hidden)
            tokens, grid = self._dropped(tokens, kept), (1, kept.shape[1])
        return self.model.norm_pre(tokens), grid, None

    def _patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        sizes = check_shapes(images=(images, "B 3 H W"))
        for side, axis in ((0, "H"), (1, "W")):
            if sizes[axis] % self.patch_size[side] or not sizes[axis]:
                raise InvalidInput(
                    f"images are {sizes['H']} x {sizes['W']} pixels; {self.name} cuts them into patches of "
                    f"{self.patch_size[0]} x {self.patch_size[1]}, so both sides must be multiples of these."
                )
        grid = (sizes["H"] // self.patch_size[0], sizes["W"] // self.patch_size[1])
        embed = self.model.patch_embed
        if hasattr(embed, "backbone"):  # a hybrid
            return embed(images).reshape(sizes["B"], -1, self.dim), grid
        return embed.norm(embed.proj(images).flatten(2).transpose(1, 2)), grid

    def _replaced(self, patches: Tensor, hidden: Tensor) -> Tensor:
        if self.mask_token is None:
            raise InvalidInput(
                f"{self.name} has no mask token: call add_mask_token() before training with replaced patches, or "
                "hide patches with mode 'drop'."
            )
        return torch.where(hidden.flatten(1)[..., None], self.mask_token.to(patches.dtype), patches)

    def _positioned(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        model = self.model
        before = [getattr(model, key, None) for key in ("cls_token", "dist_token", "reg_token")]
        prefix = [token.expand(patches.shape[0], -1, -1) for token in before if token is not None]
        table = self._table(grid)
        if table is None:
            return model.pos_drop(torch.cat([*prefix, patches], dim=1))
        if getattr(model, "no_embed_class", False):  # positions belong to patches alone
            return model.pos_drop(torch.cat([*prefix, patches + table], dim=1))
        return model.pos_drop(torch.cat([*prefix, patches], dim=1) + table)

    def _table(self, grid: tuple[int, int]) -> Tensor | None:
        """Positions for a grid, by the authors' rule."""
        table: Tensor | None = self.model.pos_embed
        native = tuple(self.model.patch_embed.grid_size)
        if table is None or grid == native:
            return table
        num_prefix = 0 if getattr(self.model, "no_embed_class", False) else self.num_prefix
        exact = table.float() if table.dtype in (torch.float16, torch.bfloat16) else table
        if native[0] != native[1]:  # no publication has such a table; timm's rule
            from timm.layers import resample_abs_pos_embed

            made = resample_abs_pos_embed(exact, list(grid), list(native), num_prefix_tokens=num_prefix)
        else:
            made = interpolate_position_embedding(
                exact, grid, self.positions.offset, antialias=self.positions.antialias, num_prefix=num_prefix
            )
        return made.to(table.dtype)

    def _kept(self, hidden: Tensor) -> Tensor:
        """Row-major indices `[B, K]` of the patches that stay."""
        shown = ~hidden.flatten(1)
        counts = shown.sum(1)
        if not len(counts) or (counts != counts[0]).any():
            raise InvalidInput(
                f"mask.hidden leaves {counts.tolist()[:8]} patches in the images; dropping needs the same number "
                "in each."
            )
        if not counts[0]:
            raise InvalidInput("mask.hidden hides every patch; leave at least one in each image.")
        return shown.nonzero()[:, 1].reshape(len(shown), -1)

    def _dropped(self, tokens: Tensor, kept: Tensor) -> Tensor:
        prefix = torch.arange(self.num_prefix, device=kept.device).expand(len(kept), -1)
        index = torch.cat([prefix, kept + self.num_prefix], dim=1)
        return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))

    # --- the blocks and what comes after

    def _run(self, block: nn.Module, tokens: Tensor, shared: Any, index: int) -> Tensor:
        if self.model.grad_checkpointing and self.training and torch.is_grad_enabled():
            from torch.utils.checkpoint import checkpoint

            return checkpoint(self._block, block, tokens, shared, index, use_reentrant=False)
        return self._block(block, tokens, shared, index)

    def _block(self, block: nn.Module, tokens: Tensor, shared: Any, index: int) -> Tensor:
        return block(tokens)

    def _norm(self, tokens: Tensor) -> Tensor:
        if isinstance(self.model.norm, nn.Identity):
            return self.model.fc_norm(tokens)
        return self.model.norm(tokens)

    def _split(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor | None, Tensor]:
        """Class tokens `[..., D]` and patches `[..., h, w, D]` of tokens `[..., P + N, D]`."""
        cls = tokens[..., 0, :] if self.has_class_token else None
        patches = tokens[..., self.num_prefix :, :]
        return cls, patches.reshape(*patches.shape[:-2], *grid, -1)

    def _check_request(self, request: Request) -> None:
        if (request.attention or request.class_query) and not self.has_class_token:
            raise InvalidInput(
                f"{self.name} has no class token, so there is no attention from it and no class query; keys and "
                "patches are there."
            )
        if (request.attention or request.class_query or request.keys) and not self._attention_is_known():
            raise InvalidInput(
                f"the last block of {self.name} is a {type(self.model.blocks[-1]).__name__}, whose attention fewsight "
                "cannot read; use class token, patches and block outputs, or another backbone."
            )

    def _attention_is_known(self) -> bool:
        from timm.layers.attention import Attention
        from timm.models.vision_transformer import Block

        block = self.model.blocks[-1]
        return isinstance(block, Block) and isinstance(block.attn, Attention)

    def _last_attention(
        self, last_input: Tensor, grid: tuple[int, int], request: Request, shared: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Keys `[B, n, h, w, d]`, class query `[B, n, d]` and attention `[B, n, h, w]`, as requested."""
        if not (request.keys or request.class_query or request.attention):
            return None, None, None
        attention = None
        block = self.model.blocks[-1]
        query, key = self._query_key(block.attn, block.norm1(last_input), shared)  # [B, n, P + N, d]
        if request.attention:
            logits = (key.float() @ query[:, :, 0, :, None].float()).squeeze(-1) * query.shape[-1] ** -0.5
            bias = self._class_bias(block.attn, shared)
            weights = (logits if bias is None else logits + bias).softmax(-1)  # [B, n, P + N]
            attention = weights[:, :, self.num_prefix :].reshape(*weights.shape[:2], *grid)
        return (
            key[:, :, self.num_prefix :].reshape(*key.shape[:2], *grid, -1) if request.keys else None,
            query[:, :, 0] if request.class_query else None,
            attention,
        )

    def _query_key(self, attention: Any, tokens: Tensor, shared: Any) -> tuple[Tensor, Tensor]:
        return _normed_query_key(attention, attention.qkv(tokens))

    def _class_bias(self, attention: Any, shared: Any) -> Tensor | None:
        """What is added to the class token's logits, broadcast to `[B, n, P + N]`."""
        return None


class BeitBackbone(VisionTransformerBackbone):
    """A `timm.models.beit.Beit`: BEiT and SimMIM, with biases by relative position.

    The biases belong to one grid, so images of another size are refused, and no patch can be dropped.
    """

    def _embed(self, images: Tensor, mask: TokenMask | None) -> tuple[Tensor, tuple[int, int], Any]:
        patches, grid = self._patches(images)
        native = tuple(self.model.patch_embed.grid_size)
        if grid != native:
            raise InvalidInput(
                f"images are {images.shape[2]} x {images.shape[3]} pixels; the relative positions of {self.name} "
                f"were made for {native[0] * self.patch_size[0]} x {native[1] * self.patch_size[1]}."
            )
        if mask is not None:
            check_shapes(images=(images, "B 3 H W"), hidden=(mask.hidden, f"B {grid[0]} {grid[1]}"))
            if mask.mode == "drop":
                raise InvalidInput(
                    f"{self.name} cannot drop patches: its position biases are for all of them."
                )
            patches = self._replaced(patches, mask.hidden)
        shared = self.model.rel_pos_bias
        return self._positioned(patches, grid), grid, None if shared is None else shared()

    def _block(self, block: nn.Module, tokens: Tensor, shared: Any, index: int) -> Tensor:
        return block(tokens, shared_rel_pos_bias=shared)

    def _attention_is_known(self) -> bool:
        return True

    def _query_key(self, attention: Any, tokens: Tensor, shared: Any) -> tuple[Tensor, Tensor]:
        return _biased_query_key(attention, tokens)

    def _class_bias(self, attention: Any, shared: Any) -> Tensor | None:
        own = None
        if attention.relative_position_bias_table is not None:
            own = attention._get_rel_pos_bias()[0]
        given = [bias for bias in (own, shared) if bias is not None]
        return sum(given)[:, 0].float() if given else None  # type: ignore[index]


class RotaryBackbone(VisionTransformerBackbone):
    """A `timm.models.eva.Eva`: EVA-02, DINOv3, and others that rotate queries and keys by position."""

    def _embed(self, images: Tensor, mask: TokenMask | None) -> tuple[Tensor, tuple[int, int], Any]:
        patches, grid = self._patches(images)
        if self.model.rope is None or getattr(self.model, "rope_mixed", False):
            raise InvalidInput(f"fewsight cannot run {self.name}: its positions are of an unknown kind.")
        rotation = self.model.rope.get_embed(shape=list(grid))  # [N, 2 d]
        if mask is not None:
            check_shapes(images=(images, "B 3 H W"), hidden=(mask.hidden, f"B {grid[0]} {grid[1]}"))
            if mask.mode == "replace":
                patches = self._replaced(patches, mask.hidden)
        tokens = self._positioned(patches, grid)
        if mask is not None and mask.mode == "drop":
            kept = self._kept(mask.hidden)
            tokens, grid = self._dropped(tokens, kept), (1, kept.shape[1])
            rotation = rotation[kept][:, None]  # [B, 1, K, 2 d]
        return self.model.norm_pre(tokens), grid, rotation

    def _block(self, block: nn.Module, tokens: Tensor, shared: Any, index: int) -> Tensor:
        return block(tokens, rope=shared)

    def _attention_is_known(self) -> bool:
        from timm.models.eva import EvaAttention, EvaBlock

        block = self.model.blocks[-1]
        return isinstance(block, EvaBlock) and isinstance(block.attn, EvaAttention)

    def _query_key(self, attention: Any, tokens: Tensor, shared: Any) -> tuple[Tensor, Tensor]:
        from timm.layers import apply_rot_embed_cat

        if attention.qkv is None:
            heads = (-1, (attention.num_heads, attention.head_dim))
            query, key = (
                made(tokens).unflatten(*heads).transpose(1, 2)
                for made in (attention.q_proj, attention.k_proj)
            )
            query, key = attention.q_norm(query), attention.k_norm(key)
        else:
            query, key = _biased_query_key(attention, tokens)
        P, half = self.num_prefix, attention.rotate_half
        rotated = (
            torch.cat([x[:, :, :P], apply_rot_embed_cat(x[:, :, P:], shared, half=half)], dim=2).type_as(x)
            for x in (query, key)
        )
        return tuple(rotated)  # type: ignore[return-value]


def _normed_query_key(attention: Any, qkv: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys `[B, n, N, d]` of fused `qkv [B, N, 3 n d]`, as the attention multiplies them."""
    query, key, _ = qkv.reshape(*qkv.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    norms = (getattr(attention, "q_norm", None), getattr(attention, "k_norm", None))
    return tuple(x if norm is None else norm(x) for x, norm in zip((query, key), norms, strict=True))  # type: ignore[return-value]


def _biased_query_key(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The same where biases of q and v are kept apart and k has none."""
    qkv = attention.qkv(tokens)
    if attention.q_bias is not None:
        qkv = qkv + torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    return _normed_query_key(attention, qkv)


def _without_head(model: nn.Module) -> nn.Module:
    """The same network without what comes after its tokens."""
    network: Any = model
    for part in ("head", "head_dist"):
        if hasattr(network, part):
            setattr(network, part, nn.Identity())
    if getattr(network, "attn_pool", None) is not None:
        network.attn_pool = None
    if not hasattr(network, "norm_pre"):
        network.norm_pre = nn.Identity()
    return model
