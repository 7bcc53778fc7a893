"""CST: what is in the photo and where, from correlations of patch tokens.

Kang, Koniusz, Cho and Murray, "Distilling Self-Supervised Vision Transformers for Weakly-Supervised Few-Shot
Classification and Segmentation", CVPR 2023 (arXiv 2307.03407). Every patch of the query is correlated with the
class token and a reduced grid of patches of a support image, in every block and head of a frozen backbone; a
small transformer over the support tokens turns these correlations into "the class is present" and "this patch
belongs to it".

Letters: B images, L blocks, n heads, D width, d = D / n, H x W query patch grid, P = H W, h x w support patch
grid, gh x gw (or g x g) reduced support grid, S = gh gw, C = n L correlation channels, K shots, N ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewsight.errors import InvalidInput
from fewsight.heads.correlation_block import (
    Columns,
    CorrelationBlock,
    TokenColumns,
    kept_columns,
    pooling_matrix,
)
from fewsight.heads.support_tokens import covered_tokens, directions_of, seen_tokens, support_directions
from fewsight.shapes import check_shapes

__all__ = [
    "CorrelationTransformer",
    "EpisodePrediction",
    "correlation_tokens",
    "covered_tokens",
    "predict_episode",
    "seen_tokens",
    "support_directions",
]

MaskReduction = Literal["points", "area"]


def correlation_tokens(
    query_patches: Tensor,
    support_cls: Tensor,
    support_patches: Tensor,
    *,
    heads: int,
    support_grid: tuple[int, int],
) -> Tensor:
    """Cosines of every query patch with the class token and a reduced grid of patches of a support image.

    Args:
        query_patches: [B, L, H, W, D].
        support_cls: [B, L, D].
        support_patches: [B, L, h, w, D].
        heads: n; channel = head · L + block.
        support_grid: (gh, gw) after reduction.

    Returns:
        [B, n·L, H·W, 1 + gh·gw] in [-1, 1], the class column first, patches row-major. To keep memory bounded
        give the patches to `CorrelationTransformer.correlate` instead.

    Raises:
        InvalidInput: shapes do not fit, or heads does not divide D.
    """
    check_shapes(
        query_patches=(query_patches, "B L H W D"),
        support_cls=(support_cls, "B L D"),
        support_patches=(support_patches, "B L h w D"),
    )
    query = directions_of(query_patches.flatten(2, 3), heads)
    support = support_directions(support_cls, support_patches, heads=heads, support_grid=support_grid)
    return query @ support.transpose(-1, -2)


class PatchColumns:
    """Correlations made where they are read: from raw query patches and directions of supports.

    A query that stands for all rows is given once. Query patches are brought to unit length after the product,
    a factor for each query token, so that no second copy of all of them is made.
    """

    def __init__(self, query: Tensor, seen: Tensor, pooled: Tensor, dtype: torch.dtype) -> None:
        """Query [R or 1, L, P, D]; directions [R, C, d, 1 + M] and pooled ones [R, C, d, 1 + S']."""
        self.rows, channels, self._width, self.seen = seen.shape
        self.tokens, self._dtype, self._query = query.shape[2], dtype, query
        self.pooled = pooled.shape[3]
        self.numbers = channels * (self._width + 2 * (self.seen + self.pooled))
        # Seen and pooled columns side by side: one product gives both.
        self._support = torch.cat([seen, pooled], dim=3)

    def slice(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """See `Columns`."""
        split = self._query[:, :, start:stop].unflatten(3, (-1, self._width))  # [R or 1, L, p, n, d]
        length = split.norm(dim=-1).clamp(min=1e-12).permute(0, 3, 1, 2).flatten(1, 2)
        x = split.permute(0, 3, 1, 2, 4).flatten(1, 2) @ self._support
        x = (x / length[..., None]).to(self._dtype)
        seen, pooled = x.split([self.seen, self.pooled], dim=3)
        return seen, pooled


class CorrelationTransformer(nn.Module):
    """The CST head: correlations of a query with a support image -> presence and mask logits.

    The names and order of the parameters are those of published checkpoints (under their prefix `learner.`);
    366,004 parameters at ViT-S/8. Initialisation: PyTorch's defaults.

    Args:
        in_channels: C = n·L.
        widths: of the two blocks; neck = the last, decoders = half of it.
        pools: each block averages pool x pool support tokens; the support grid must be their product.
        heads: attention heads of each block.
        groups: of every group norm of the two blocks; the neck has always 4.
        mask_reduction: how a support mask selects support tokens: `"points"` as published (`seen_tokens`), or
            `"area"` (`covered_tokens`).
        memory_mib: bound for what is in work before the first norm of a block, in MiB; changes no number.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int] = (32, 128),
        pools: Sequence[int] = (4, 3),
        heads: int = 8,
        groups: int = 4,
        *,
        mask_reduction: MaskReduction = "points",
        memory_mib: float = 8.0,
    ) -> None:
        super().__init__()
        _check_sizes(in_channels, widths, pools, heads, groups)
        if mask_reduction not in ("points", "area"):
            raise InvalidInput(f"mask_reduction is {mask_reduction!r}; expected 'points' or 'area'.")
        if not 0 < memory_mib < float("inf"):
            raise InvalidInput(f"memory_mib is {memory_mib}; expected a positive number.")
        self.in_channels, self.widths, self.pools = in_channels, tuple(widths), tuple(pools)
        self.mask_reduction, self.memory_mib = mask_reduction, memory_mib
        inputs = (in_channels, *widths[:-1])
        self.corrtransformer = nn.ModuleList(
            CorrelationBlock(width, out, pool, heads, groups)
            for width, out, pool in zip(inputs, widths, pools, strict=True)
        )
        neck, inner = widths[-1], widths[-1] // 2
        self.linear = nn.Sequential(
            nn.Conv2d(neck, neck, 1), nn.GroupNorm(4, neck), nn.ReLU(inplace=True),
            nn.Conv2d(neck, neck, 1), nn.GroupNorm(4, neck), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.decoder1_cls = _two_convolutions(neck, neck, inner, kernel=1, last_relu=True)
        self.decoder1_seg = _two_convolutions(neck, neck, inner, kernel=3, last_relu=True)
        self.decoder2_cls = _two_convolutions(inner, inner, 2, kernel=1, last_relu=False)
        self.decoder2_seg = _two_convolutions(inner, inner, 2, kernel=3, last_relu=False)

    @property
    def support_grid(self) -> int:
        """Side of the reduced support grid that the pools need."""
        return prod(self.pools)

    def forward(
        self, tokens: Tensor, support_mask: Tensor | None = None, *, query_grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Logits from correlation tokens.

        Args:
            tokens: [B, C, H·W, 1 + g²] of `correlation_tokens`.
            support_mask: 0 = background, [B, Y, X] in pixels of any size; None: everything is seen.
            query_grid: (H, W).

        Returns:
            Class logits (absent, present) [B, 2] and mask logits (background, foreground) [B, 2, 2H, 2W].

        Raises:
            InvalidInput: shapes do not fit the head or one another.
        """
        sizes = check_shapes(tokens=(tokens, f"B {self.in_channels} P T"))
        self._check_columns(sizes["T"])
        seen = self._seen(support_mask, sizes["B"])
        kept, bias = _kept(seen[0])
        return self._decide(TokenColumns(tokens, kept, self.pools[0]), seen, bias, query_grid)

    def correlate(
        self, query_patches: Tensor, support: Tensor, seen: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits from patches, without ever holding all correlation tokens; else as `forward`.

        Args:
            query_patches: raw, [R, L, H, W, D], or [1, L, H, W, D] for one query in all rows.
            support: [R, n·L, 1 + g², d] of `support_directions`.
            seen: bool [R, S] for the input of each block (`reduce_mask`); None: everything is seen.

        Raises:
            InvalidInput: shapes do not fit the head or one another.
        """
        grid = self._check_pairs(query_patches, support)
        if len(query_patches) not in (1, len(support)):
            raise InvalidInput(
                f"query_patches has {len(query_patches)} rows and support {len(support)}; expected as many, or one "
                "query."
            )
        masks = tuple(seen) if seen is not None else (None,) * len(self.pools)
        kept, bias = _kept(masks[0])
        directions = support.transpose(2, 3)  # [R, C, d, 1 + g²]
        pooled = directions @ pooling_matrix(directions.shape[3], self.pools[0], directions)
        if kept is not None:
            directions = directions.gather(3, kept[:, None, None].expand(*directions.shape[:3], -1))
        return self._decide(self._columns(query_patches, directions, pooled), masks, bias, grid)

    def correlate_jointly(
        self, query_patches: Tensor, support: Tensor, seen: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits of one query from all shots of a class at once: they share one softmax, in place of K.

        Keys and values are the seen tokens of every shot; queries and the shortcut of the transformer come from
        the mean of the shots; in later blocks a token is seen where it is in any shot. Costs little more than one
        shot. One shot gives what `correlate` gives. Ours; the published way is the mean of K answers.

        Args:
            query_patches: [1, L, H, W, D].
            support: [K, n·L, 1 + g², d].
            seen: bool [K, S] for the input of each block; None: everything is seen.

        Raises:
            InvalidInput: shapes do not fit the head or one another.
        """
        grid = self._check_pairs(query_patches, support)
        if len(query_patches) != 1:
            raise InvalidInput(
                f"query_patches has {len(query_patches)} rows; expected one query for all shots."
            )
        shots = list(support.transpose(2, 3))  # K times [C, d, 1 + g²]
        pooled = torch.stack(shots).mean(0) @ pooling_matrix(support.shape[2], self.pools[0], support)
        later: tuple[Tensor | None, ...] = (None,) * len(self.pools)
        if seen is not None:
            shots = [s[..., F.pad(mask, (1, 0), value=True)] for s, mask in zip(shots, seen[0], strict=True)]
            later = tuple(level.any(0, keepdim=True) for level in seen)
        columns = self._columns(query_patches, torch.cat(shots, dim=2)[None], pooled[None])
        return self._decide(columns, later, None, grid)

    def _columns(self, query_patches: Tensor, seen: Tensor, pooled: Tensor) -> PatchColumns:
        dtype = self.linear.get_parameter("0.weight").dtype
        return PatchColumns(query_patches.flatten(2, 3), seen, pooled, dtype)

    def _check_pairs(self, query_patches: Tensor, support: Tensor) -> tuple[int, int]:
        """Grid of the query, if query and support fit the head."""
        C = self.in_channels
        sizes = check_shapes(query_patches=(query_patches, "Q L H W D"), support=(support, f"R {C} T d"))
        if sizes["L"] * sizes["D"] != C * sizes["d"]:
            raise InvalidInput(
                f"query_patches has {sizes['L']} blocks of width {sizes['D']}; expected blocks times width to be "
                f"{C} x {sizes['d']}, the channels and head width of support."
            )
        self._check_columns(sizes["T"])
        return sizes["H"], sizes["W"]

    def reduce_mask(self, support_mask: Tensor) -> tuple[Tensor, ...]:
        """Seen support tokens at the input of each block, bool [B, 144] and [B, 9] at published sizes."""
        reduce = seen_tokens if self.mask_reduction == "points" else covered_tokens
        sides = [prod(self.pools[i:]) for i in range(len(self.pools))]
        return tuple(reduce(support_mask, grid=(side, side)) for side in sides)

    def _seen(self, support_mask: Tensor | None, rows: int) -> tuple[Tensor | None, ...]:
        if support_mask is None:
            return (None,) * len(self.pools)
        if len(support_mask) != rows:
            raise InvalidInput(f"support_mask has {len(support_mask)} rows; expected {rows} as in tokens.")
        return self.reduce_mask(support_mask)

    def _decide(
        self,
        columns: Columns,
        seen: tuple[Tensor | None, ...],
        bias: Tensor | None,
        query_grid: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        H, W = query_grid
        if columns.tokens != H * W:
            raise InvalidInput(
                f"query_grid is {(H, W)}; expected a product of {columns.tokens}, the query tokens."
            )
        x = self.corrtransformer[0](columns, bias, self.memory_mib)
        for index in range(1, len(self.pools)):
            kept, bias = _kept(seen[index])
            columns = TokenColumns(x, kept, self.pools[index])
            x = self.corrtransformer[index](columns, bias, self.memory_mib)
        x = self.linear(x)  # [R, neck, P, 2]
        for_class, for_mask = x.unflatten(2, (H, W)).unbind(4)
        # Zeros of the padding count: the mean over 3 x 3 divides by 9 at the border, too.
        pooled = F.avg_pool2d(self.decoder1_cls(for_class), 3, stride=2, padding=1)
        class_logits = self.decoder2_cls(pooled).mean((2, 3))
        enlarged = F.interpolate(
            self.decoder1_seg(for_mask), size=(2 * H, 2 * W), mode="bilinear", align_corners=True
        )
        return class_logits, self.decoder2_seg(enlarged)

    def _check_columns(self, columns: int) -> None:
        grid = self.support_grid
        if columns != 1 + grid**2:
            raise InvalidInput(
                f"there are {columns} support tokens; expected 1 + {grid} x {grid}, as the pools {self.pools} need. "
                "Reduce the support patches to that grid, or choose other pools."
            )


def _kept(seen: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if seen is None else kept_columns(seen)


def _two_convolutions(width: int, middle: int, out: int, *, kernel: int, last_relu: bool) -> nn.Sequential:
    layers = [nn.Conv2d(width, middle, kernel, padding=kernel // 2), nn.ReLU(inplace=True)]
    layers.append(nn.Conv2d(middle, out, kernel, padding=kernel // 2))
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if last_relu else []))


def _check_sizes(channels: int, widths: Sequence[int], pools: Sequence[int], heads: int, groups: int) -> None:
    if channels < 1 or not widths or len(widths) != len(pools) or min(pools) < 1:
        raise InvalidInput(
            f"in_channels, widths and pools are {channels}, {tuple(widths)} and {tuple(pools)}; expected positive "
            "numbers and one pool for each width."
        )
    for width in widths:
        if width % 2 or heads < 1 or (width // 2) % heads or groups < 1 or (width // 2) % groups:
            raise InvalidInput(
                f"widths holds {width}; expected twice a multiple of heads ({heads}) and of groups ({groups})."
            )
    if widths[-1] % 4:
        raise InvalidInput(
            f"widths ends with {widths[-1]}; expected a multiple of 4, the groups of the neck."
        )


class EpisodePrediction(NamedTuple):
    """What an episode's logits say; see `predict_episode`."""

    presence: Tensor
    present: Tensor
    foreground: Tensor
    labels: Tensor


def predict_episode(class_logits: Tensor, mask_logits: Tensor, *, size: tuple[int, int]) -> EpisodePrediction:
    """The published rule: probabilities are averaged over the shots, then decided.

    Args:
        class_logits: (absent, present) of each query, shot and way, [B, K, N, 2].
        mask_logits: (background, foreground), [B, K, N, 2, h, w]; resized bilinearly, corners aligned.
        size: (height, width) of the maps.

    Returns:
        `presence` [B, N] probabilities; `present` [B, N], presence > 0.5; `foreground` [B, N, H, W]
        probabilities; `labels` [B, H, W]: n where way n (from 1) has the largest foreground of at least 0.5
        (ties: the lowest way), else 0. The two answers do not gate one another.

    Differs from the authors' code, which applies a second softmax to the averaged probabilities: no decision
    changes, and the values here are probabilities.

    Raises:
        InvalidInput: shapes do not fit.
    """
    sizes = check_shapes(class_logits=(class_logits, "B K N 2"), mask_logits=(mask_logits, "B K N 2 h w"))
    if min(sizes.values()) < 1 or min(size) < 1:
        raise InvalidInput(
            f"mask_logits has shape {list(mask_logits.shape)} and size is {tuple(size)}; an axis is empty."
        )
    presence = (class_logits[..., 1] - class_logits[..., 0]).sigmoid().mean(1)
    # A softmax over two depends on their difference alone, which is what has to be resized.
    margin = (mask_logits[:, :, :, 1] - mask_logits[:, :, :, 0]).flatten(0, 1)  # [B·K, N, h, w]
    margin = F.interpolate(margin, size=tuple(size), mode="bilinear", align_corners=True)
    foreground = margin.sigmoid().unflatten(0, (sizes["B"], sizes["K"])).mean(1)
    return EpisodePrediction(presence, presence > 0.5, foreground, label_map(foreground))


def label_map(foreground: Tensor) -> Tensor:
    """Way of each pixel from foreground probabilities [..., N, H, W]: 0 = background, ties to the lowest way."""
    largest, way = foreground.max(dim=-3)
    return torch.where(largest >= 0.5, way + 1, 0)
