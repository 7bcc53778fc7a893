"""Cross-entropy between fixed soft targets and softmax(logits / temperature), with a fused gradient.

    H(p, q) = logsumexp(x) - <p, x>,  x = logits / temperature;     dH/dx = softmax(x) - p

A student view that meets several teacher views needs the sum T of their targets only, as the cross-entropy is
linear in them: value `n logsumexp(x) - <T, x>`, gradient `n softmax(x) - T`, for n = sum of T. Rows are swept in
blocks, so that besides the gradient itself no copy of the logits is made, in the forward or the backward pass;
targets can be made block by block as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewsight.distributed import global_rows
from fewsight.errors import InvalidInput
from fewsight.objectives.blocks import at_least_float32, row_blocks
from fewsight.objectives.ranges import check_positive
from fewsight.shapes import check_shapes

__all__ = [
    "patch_cross_entropy",
    "row_cross_entropy",
    "streamed_view_cross_entropy",
    "view_cross_entropy",
]


def view_cross_entropy(student: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy over all pairs of a target view and another student view.

    Args:
        student: logits `[V, B, K]`, view-major: all images of view 0, then of view 1; the first G views are
            those of the targets, in the same order.
        targets: distributions `[G, B, K]`; carry no gradient.
        temperature: of the student, above 0.

    Returns:
        Scalar, `1 / (G V - G)` of the sum over pairs v != g of the mean over images.

    Raises:
        InvalidInput: fewer student than target views, no pair, wrong shapes.
    """
    G = check_shapes(student=(student, "V B K"), targets=(targets, "G B K"))["G"]
    targets = targets.detach()
    return streamed_view_cross_entropy(student, G, lambda rows: targets[:, rows], temperature)


def streamed_view_cross_entropy(
    student: Tensor, target_views: int, targets_of: Callable[[slice], Tensor], temperature: float
) -> Tensor:
    """`view_cross_entropy` of targets that are made block by block, `[G, rows, K]` for a slice of images.

    They are asked for once in the forward pass and once in the backward pass, and must be the same.
    """
    V, B, _ = check_shapes(student=(student, "V B K")).values()
    check_positive(temperature=temperature)
    G = target_views
    pairs = G * V - G
    if V < G or pairs < 1 or B < 1:
        raise InvalidInput(
            f"student has {V} views of {B} images and targets {G} views; expected at least one image, as many "
            "student as target views, and two views in all."
        )
    masses = [G - 1] * G + [G] * (V - G)
    rows = _FusedCrossEntropy.apply(student, temperature, masses, lambda rows: _met(targets_of(rows), V))
    return rows.sum() / (pairs * global_rows(B, student.device))


def _met(targets: Tensor, views: int) -> list[Tensor | None]:
    """For each student view the sum of the targets of other views; None where there are none."""
    G = len(targets)
    if G == 1:
        return [None, *targets.expand(views - 1, -1, -1)]
    if G == 2:
        others = [targets[1], targets[0]]
    else:
        others = [torch.cat([targets[:view], targets[view + 1 :]]).sum(dim=0) for view in range(G)]
    return [*others, *([targets.sum(dim=0)] * (views - G) if views > G else [])]


def row_cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each row, `[...]`, for student logits and target distributions `[..., K]`.

    >>> row_cross_entropy(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), 0.1)
    tensor([0.6931])
    """
    check_positive(temperature=temperature)
    if logits.shape != targets.shape or logits.ndim < 1:
        raise InvalidInput(
            f"targets has shape {list(targets.shape)}; expected that of the logits, {list(logits.shape)}."
        )
    K = logits.shape[-1]
    flat = targets.detach().reshape(-1, K)
    rows = _FusedCrossEntropy.apply(logits.reshape(1, -1, K), temperature, [1], lambda rows: [flat[rows]])
    return rows.view(logits.shape[:-1])


def patch_cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """iBOT's mean over masked patches: of each image first, then over all images.

    An image without a masked patch contributes 0 and is counted.

    Args:
        logits, targets: `[M, P]`, rows of the M masked patches in the order of `mask`.
        mask: bool `[..., N]`, True = masked; leading axes are images and views.
        temperature: of the student.

    Returns:
        Scalar; 0 where nothing is masked.
    """
    rows = row_cross_entropy(logits, targets, temperature)
    counts = mask.sum(dim=-1, keepdim=True).clamp(min=1)
    weights = (mask / counts)[mask]
    return (rows * weights.to(rows.dtype)).sum() / global_rows(max(1, counts.numel()), rows.device)


# The targets of each of V views for a slice of rows; views that meet no target have None.
TargetsOf = Callable[[slice], Sequence[Tensor | None]]


class _FusedCrossEntropy(torch.autograd.Function):
    """Rows `[V, R]` of `mass logsumexp(x) - <targets, x>` for logits `[V, R, K]`; targets sum to the mass."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, temperature: float, masses: Sequence[int], targets_of: TargetsOf
    ) -> Tensor:
        losses = at_least_float32(logits.new_zeros(logits.shape[:2]))
        normalisers = torch.zeros_like(losses)
        for rows in _blocks(logits):
            parts = (tensor[:, rows].unbind() for tensor in (logits, losses, normalisers))
            for block, loss, normaliser, targets, mass in zip(*parts, targets_of(rows), masses, strict=True):
                if targets is None:
                    continue
                block = at_least_float32(block)
                top = block.amax(dim=1, keepdim=True).div_(-temperature)
                # Shifted by the maximum before the product, lest large logits cancel.
                x = torch.add(top, block, alpha=1 / temperature)
                product = torch.linalg.vecdot(x, targets.to(x.dtype))
                spread = x.exp_().sum(dim=1).log_()
                torch.sub(spread, top[:, 0], out=normaliser)
                torch.sub(spread.mul_(mass), product, out=loss)
        ctx.save_for_backward(logits, normalisers)
        ctx.settings = temperature, masses, targets_of
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        logits, normalisers = ctx.saved_tensors
        temperature, masses, targets_of = ctx.settings
        gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
        weights = (gradients[0] / temperature)[..., None]
        for rows in _blocks(logits):
            parts = (
                tensor[:, rows].unbind() for tensor in (logits, gradient, weights, -normalisers[..., None])
            )
            for block, place, weight, shift, targets, mass in zip(
                *parts, targets_of(rows), masses, strict=True
            ):
                if targets is None:
                    place.zero_()
                    continue
                # Full-precision logits have their gradient made in place, without a copy of the block.
                q = place if place.dtype == shift.dtype else torch.empty_like(place, dtype=shift.dtype)
                torch.add(shift, at_least_float32(block), alpha=1 / temperature, out=q)
                q.exp_().mul_(weight * mass).addcmul_(targets.to(q.dtype), weight, value=-1)
                if q is not place:
                    place.copy_(q)
        return gradient, None, None, None


def _blocks(logits: Tensor) -> Iterator[slice]:
    return row_blocks(logits.shape[1], logits.shape[2], logits.device, scale=0.25)
