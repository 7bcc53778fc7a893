"""The label-aware contrastive losses of anchors against a contrast set, in blocks, with their gradient.

The formulas stand in `label_contrastive`. Value and gradient come from one sweep over blocks of anchors; no M x M
matrix exists. The positives of L_out need sums over classes alone. Letters: M vectors, A anchors, b anchors of a
block, C classes.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewsight.shapes import check_shapes

__all__ = ["AnchorLosses", "anchor_losses"]

# A block of similarities of about this size stays in a core's second-level cache.
BLOCK_BYTES = 2 * 2**20


class AnchorLosses(NamedTuple):
    """The sum of the anchors' losses, how many of them have a positive, and how many there are."""

    total: Tensor
    counted: int
    anchors: int


def anchor_losses(
    vectors: Tensor,
    classes: Tensor,
    anchors: Tensor,
    *,
    temperature: float,
    variant: Literal["out", "in"] = "out",
    hard_negative_beta: float = 0.0,
    gradient_dtype: torch.dtype | None = None,
) -> AnchorLosses:
    """Sum of the losses of some anchors against the whole contrast set.

    On several processes each takes its own rows as anchors against the vectors of all.

    Args:
        vectors: the contrast set `[M, D]`, float32 or float64.
        classes: class ids `[M]`, integers.
        anchors: rows `[A]` of the vectors that are anchors.
        temperature, variant, hard_negative_beta, gradient_dtype: as in `label_contrastive_loss`.
    """
    check_shapes(vectors=(vectors, "M D"), classes=(classes, "M"), anchors=(anchors, "A"))
    inverse, sizes = torch.unique(classes, return_inverse=True, return_counts=True)[1:]
    counted = anchors[sizes[inverse[anchors]] > 1]
    settings = _Settings(temperature, variant, hard_negative_beta, gradient_dtype or vectors.dtype)
    with torch.autocast(vectors.device.type, enabled=False):
        total = _BlockedLosses.apply(vectors, inverse, sizes, counted, settings)
    return AnchorLosses(total, len(counted), len(anchors))


class _Settings(NamedTuple):
    temperature: float
    variant: str
    beta: float
    gradient_dtype: torch.dtype


class _BlockedLosses(torch.autograd.Function):
    """Sum of the anchors' losses; the gradient is made beside the value, block by block, and kept."""

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, classes: Tensor, sizes: Tensor, anchors: Tensor, settings: _Settings
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(vectors)
        narrow = vectors.to(settings.gradient_dtype)
        total = vectors.new_zeros(())
        for rows in torch.split(anchors, _block_rows(vectors)):
            scores = vectors[rows] @ vectors.T  # [b, M]
            scores.mul_(1 / settings.temperature)
            scores[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
            if settings.variant == "out" and not settings.beta:
                losses, pull = _all_alike(scores)
            else:
                losses, pull = _weighted(scores, classes[rows, None] == classes, settings)
            total += losses.sum()
            if wanted:
                pull = pull.to(narrow.dtype)
                gradient.index_add_(0, rows, (pull @ narrow).to(vectors.dtype))
                gradient += pull.T @ narrow[rows]
        if settings.variant == "out":
            total -= (
                _positives(vectors, classes, sizes, anchors, gradient if wanted else None)
                / settings.temperature
            )
        if wanted:
            ctx.save_for_backward(gradient.div_(settings.temperature))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None, None


def _all_alike(scores: Tensor) -> tuple[Tensor, Tensor]:
    """`lse` over all but the anchor itself `[b]` and its derivative, which overwrites the scores `[b, M]`."""
    top = scores.amax(1, keepdim=True)
    weights = scores.sub_(top).exp_()
    sums = weights.sum(1, keepdim=True)
    return (top + sums.log())[:, 0], weights.div_(sums)


def _weighted(scores: Tensor, same: Tensor, settings: _Settings) -> tuple[Tensor, Tensor]:
    """The general form: losses `[b]` without the positives of L_out, and their derivative in the scores `[b, M]`.

    `same` `[b, M]` marks the class of the anchor, itself included; its own score is -inf.
    """
    beta = settings.beta
    positives = scores.masked_fill(~same, -torch.inf)
    log_positives = torch.logsumexp(positives, 1, keepdim=True)
    if beta:
        negatives = scores.masked_fill(same, -torch.inf)
        # Without negatives the sums are -inf; 0 in their place keeps the differences free of NaN.
        hard = torch.logsumexp((1 + beta) * negatives, 1, keepdim=True)
        soft = torch.logsumexp(beta * negatives, 1, keepdim=True).nan_to_num(neginf=0.0)
        log_negatives = (~same).sum(1, keepdim=True, dtype=scores.dtype).log() + hard - soft
        log_all = torch.logaddexp(log_positives, log_negatives)
        hard = hard.nan_to_num(neginf=0.0)
        tilt = (1 + beta) * ((1 + beta) * negatives - hard).exp() - beta * (beta * negatives - soft).exp()
        pull = (positives - log_all).exp() + (log_negatives - log_all).exp() * tilt
    else:
        log_all = torch.logsumexp(scores, 1, keepdim=True)
        pull = (scores - log_all).exp()
    if settings.variant == "out":
        return log_all[:, 0], pull
    count = same.sum(1, keepdim=True, dtype=scores.dtype) - 1
    return (log_all - log_positives + count.log())[:, 0], pull - (positives - log_positives).exp()


def _positives(
    vectors: Tensor, classes: Tensor, sizes: Tensor, anchors: Tensor, gradient: Tensor | None
) -> Tensor:
    """Sum over anchors of the mean dot product with their positives; its derivative is taken off `gradient`.

    From sums over classes alone: the positives of z_i add up to S - z_i, with S the sum over its class.
    """
    weights = 1 / (sizes - 1).clamp(min=1).to(vectors.dtype)  # [C]
    sums, anchor_sums = (vectors.new_zeros(len(sizes), vectors.shape[1]) for _ in range(2))
    sums.index_add_(0, classes, vectors)
    own, own_classes = vectors[anchors], classes[anchors]
    anchor_sums.index_add_(0, own_classes, own)
    means = (sums[own_classes] - own) * weights[own_classes, None]
    if gradient is not None:
        gradient.index_add_(0, anchors, means, alpha=-1)
        # Vector j is a positive of every anchor of its class but itself.
        gradient.sub_((anchor_sums * weights[:, None])[classes])
        gradient.index_add_(0, anchors, own * weights[own_classes, None])
    return (own * means).sum()


def _block_rows(vectors: Tensor) -> int:
    """Anchors in one block of similarities."""
    rows = BLOCK_BYTES * torch.get_num_threads() // (vectors.element_size() * max(len(vectors), 1))
    return max(64, int(rows)) if vectors.device.type == "cpu" else 2048
