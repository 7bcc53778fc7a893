"""Aligned prototypes: attention of every query position over a class, tile by tile, and its exact gradient.

The attention of CrossTransformers (Doersch et al. 2020) never exists as a whole: classes with equally many supports
are taken together, query positions in tiles that fit a bound in MiB, and the backward pass computes each tile again.
Ragged classes are never padded. Where everything that autograd would keep fits the bound too, nothing is recomputed.

With g = d loss / d logit[q, c], r = t - w and A the attention of class c (all over the positions of one query):

    dt = -(2 g / P) r       dw = -dt summed over classes      dv = A^T dt
    da = A * (dt.v - dt.t)  dq = da k / sqrt(Dk)              dk = da^T q / sqrt(Dk)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["ClassOrder", "aligned_logits", "class_order"]

# A score tile of about this size stays in a core's second-level cache; larger ones are slower on a processor.
CACHE_BYTES = 2 * 2**20


class ClassOrder(NamedTuple):
    """Which supports each class holds: `rows` lists them class after class, `counts[c]` of them for class c.

    A support may stand in several classes.
    """

    rows: Tensor
    counts: tuple[int, ...]


def class_order(labels: Tensor) -> ClassOrder:
    """The supports of each class, classes in order of their ids, supports of a class in their own order.

    >>> class_order(torch.tensor([5, 2, 5]))
    ClassOrder(rows=tensor([1, 0, 2]), counts=(1, 2))
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InvalidInput(f"labels have dtype {labels.dtype}; expected integer class ids, one a support.")
    if labels.numel() == 0:
        raise InvalidInput("labels are empty; expected at least one support.")
    counts = torch.unique(labels, return_counts=True)[1]
    return ClassOrder(torch.argsort(labels, stable=True), tuple(counts.tolist()))


def aligned_logits(
    query_keys: Tensor,
    query_values: Tensor,
    keys: Tensor,
    values: Tensor,
    order: ClassOrder,
    *,
    memory_mib: float = 128.0,
) -> Tensor:
    """Minus the mean squared distance between each query's values and its aligned prototypes.

    Args:
        query_keys: `[Q, P, Dk]`.
        query_values: `[Q, P, Dv]`.
        keys: `[S, M, Dk]`.
        values: `[S, M, Dv]`.
        order: the supports of each class, see `class_order`.
        memory_mib: bound of the temporary memory of one tile in MiB.

    Returns:
        `[Q, K]`, columns in the order of `order`. Differentiable once.
    """
    check_shapes(
        query_keys=(query_keys, "Q P Dk"),
        query_values=(query_values, "Q P Dv"),
        keys=(keys, "S M Dk"),
        values=(values, "S M Dv"),
    )
    if not memory_mib > 0:
        raise InvalidInput(f"memory_mib is {memory_mib}; expected a positive number of MiB.")
    if not query_values.shape[1] or not keys.shape[1]:
        raise InvalidInput("queries and supports need at least one position each; their grid is empty.")
    device = query_keys.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query_keys.dtype
    tensors = query_keys, query_values, keys, values
    with torch.autocast(device, enabled=False):
        if _graph_fits(query_keys, query_values, order, memory_mib * 2**20, low):
            return _logits(*tensors, order, memory_mib * 2**20, low, whole=True)
        return _RecomputedLogits.apply(*tensors, order, memory_mib * 2**20, low)


def _graph_fits(
    query_keys: Tensor, query_values: Tensor, order: ClassOrder, memory: float, low: torch.dtype
) -> bool:
    """Whether plain autograd may be used: fused attention applies, and what it keeps stays within the bound.

    It keeps the aligned prototypes. Attention that is not fused keeps the scores as well: widths that differ, and
    float64 on a GPU, always take the form that recomputes.
    """
    (Q, P, Dk), Dv = query_keys.shape, query_values.shape[2]
    fused = Dk == Dv and (low != torch.float64 or query_keys.device.type == "cpu")
    return fused and len(order.counts) * Q * P * Dv * max(query_values.element_size(), 4) <= memory


def _logits(
    query_keys: Tensor,
    query_values: Tensor,
    keys: Tensor,
    values: Tensor,
    order: ClassOrder,
    memory: float,
    low: torch.dtype,
    whole: bool = False,
) -> Tensor:
    """The logits `[Q, K]`, classes of equal size together, in tiles within `memory` bytes.

    With `whole`, a tile holds all query positions: fused attention builds no scores, and autograd keeps one part a
    class.
    """
    Q, P, _ = query_keys.shape
    wide = torch.promote_types(query_values.dtype, torch.float32)
    q, w = query_keys.flatten(0, 1).to(low), query_values.flatten(0, 1).to(wide)  # [Q P, D]
    columns, distances = [], []
    for classes, rows in _class_batches(
        order, Q * P if whole else min(Q * P, 128), keys.shape[1], memory, q.device
    ):
        k, v = (x[rows].flatten(1, 2).to(low)[:, None] for x in (keys, values))  # [G, 1, n M, D]
        parts = []
        for tile in [slice(None)] if whole else _row_tiles(Q * P, k.shape[0] * k.shape[2], memory, q.device):
            t = F.scaled_dot_product_attention(q[tile].expand(len(k), 1, -1, -1), k, v)[:, 0]  # [G, R, Dv]
            parts.append(_SquaredDistances.apply(t, w[tile]))
        columns.append(classes)
        distances.append(torch.cat(parts, 1).view(-1, Q, P).mean(2) if Q else w.new_zeros(len(k), 0))
    return -torch.cat(distances)[torch.argsort(torch.cat(columns))].T


class _SquaredDistances(torch.autograd.Function):
    """||t - w||^2 of prototypes `[G, R, D]` and values `[R, D]`; keeps no difference."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(t, w)
        # The difference is squared: ||t||^2 - 2 t.w + ||w||^2 would cancel.
        return (t.to(w.dtype) - w).square_().sum(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        t, w = ctx.saved_tensors
        difference = (t.to(w.dtype) - w).mul_(2 * gradient[..., None])
        return difference.to(t.dtype), -difference.sum(0)


class _RecomputedLogits(torch.autograd.Function):
    """The same logits; nothing but the inputs is kept, and the backward pass computes each tile again."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        ctx.save_for_backward(*arguments[:4])
        ctx.settings = arguments[4:]
        return _logits(*arguments)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query_keys, query_values, keys, values = ctx.saved_tensors
        order, memory, low = ctx.settings
        Q, P, Dk = query_keys.shape
        wide = torch.promote_types(query_values.dtype, torch.float32)
        q, w = query_keys.flatten(0, 1), query_values.flatten(0, 1)  # [Q P, D]
        dq, dw, dk, dv = (torch.zeros_like(x, dtype=wide) for x in (q, w, keys, values))
        pull = gradient.to(wide).T.repeat_interleave(P, 1).mul_(-2 / P)  # [K, Q P]
        for classes, rows in _class_batches(order, min(Q * P, 128), keys.shape[1], memory, q.device):
            k, v = (x[rows].flatten(1, 2).to(low) for x in (keys, values))  # [G, n M, D]
            dk_classes, dv_classes = (torch.zeros_like(x, dtype=wide) for x in (k, v))
            for tile in _row_tiles(Q * P, k.shape[0] * k.shape[1], memory, q.device):
                q_tile = (q[tile] * Dk**-0.5).to(low).expand(len(k), -1, -1)
                attention = torch.softmax(torch.bmm(q_tile, k.mT), 2, dtype=wide)  # [G, R, n M]
                narrow = attention.to(low)
                t = torch.bmm(narrow, v).to(wide)
                dt = (t - w[tile]).mul_(pull[classes, tile, None])
                dw[tile] -= dt.sum(0)
                narrow_dt = dt.to(low)
                _accumulate(dv_classes, narrow.mT, narrow_dt)
                # d score = attention * (dt.v - dt.t): the softmax's own mean is dt.t.
                scores = torch.bmm(narrow_dt, v.mT).to(wide).sub_((dt * t).sum(2, keepdim=True))
                scores = scores.mul_(attention).to(low)
                dq[tile].add_(torch.bmm(scores, k).sum(0), alpha=Dk**-0.5)
                _accumulate(dk_classes, scores.mT, q_tile)
            for total, part in ((dk, dk_classes), (dv, dv_classes)):
                total.index_add_(0, rows.flatten(), part.view(-1, *total.shape[1:]))
        parts = zip((dq, dw, dk, dv), (query_keys, query_values, keys, values), strict=True)
        return *(part.view(x.shape).to(x.dtype) for part, x in parts), None, None, None


def _accumulate(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total += left @ right` for each class, in the wide dtype where the products are narrow."""
    if total.dtype == left.dtype:
        total.baddbmm_(left, right)
    else:
        total.add_(torch.bmm(left, right))


def _class_batches(
    order: ClassOrder, positions: int, cells: int, memory: float, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Classes of equal size together: their columns `[G]` and the supports of each `[G, n]`.

    So many classes at once as leave room for `positions` query positions in one tile.
    """
    starts = [0, *itertools.accumulate(order.counts)]
    rows = order.rows.to(device)
    for count in sorted(set(order.counts)):
        columns = [column for column, other in enumerate(order.counts) if other == count]
        room = _tile_bytes(memory, device) / (4 * count * cells * max(positions, 1))
        step = max(1, int(min(room, len(columns))))
        for first in range(0, len(columns), step):
            batch = columns[first : first + step]
            members = torch.stack([rows[starts[column] : starts[column] + count] for column in batch])
            yield torch.tensor(batch, device=device), members


def _row_tiles(positions: int, keys: int, memory: float, device: torch.device) -> Iterator[slice]:
    """Ranges of query positions whose scores against `keys` keys fit a tile."""
    step = max(1, int(min(_tile_bytes(memory, device) / (4 * keys), positions)))
    return (slice(first, first + step) for first in range(0, positions, step))


def _tile_bytes(memory: float, device: torch.device) -> float:
    """Bytes of one tile of scores. About six arrays of its size are alive at once in the backward pass."""
    return min(memory / 6, CACHE_BYTES * torch.get_num_threads()) if device.type == "cpu" else memory / 6
