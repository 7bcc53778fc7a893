"""Cross-entropy between fixed soft targets and softmax(logits / temperature), with a fused gradient.

    H(p, q) = logsumexp(x) - <p, x>,  x = logits / temperature;     dH/dx = softmax(x) - p

A student view that meets several teacher views needs the sum T of their targets only, as the cross-entropy is
linear in them: value `n logsumexp(x) - <T, x>`, gradient `n softmax(x) - T`, for n = sum of T. Rows are swept in
blocks, so that besides the gradient itself no copy of the logits is made, in the forward or the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewsight.distributed import global_rows
from fewsight.errors import InvalidInput
from fewsight.objectives.blocks import at_least_float32, row_blocks
from fewsight.objectives.ranges import check_positive
from fewsight.shapes import check_shapes

__all__ = ["patch_cross_entropy", "row_cross_entropy", "view_cross_entropy"]


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
    sizes = check_shapes(student=(student, "V B K"), targets=(targets, "G B K"))
    check_positive(temperature=temperature)
    V, B, G = sizes["V"], sizes["B"], sizes["G"]
    pairs = G * V - G
    if V < G or pairs < 1 or B < 1:
        raise InvalidInput(
            f"student has {V} views of {B} images and targets {G} views; expected at least one image, as many "
            "student as target views, and two views in all."
        )
    targets = targets.detach()
    every = targets.sum(dim=0) if V > G else targets[0]
    others = [_sum_of_others(targets, view) for view in range(G)] + [every] * (V - G)
    masses = [G - 1] * G + [G] * (V - G)
    rows = _FusedCrossEntropy.apply(student, temperature, masses, *others)
    return rows.sum() / (pairs * global_rows(B, student.device))


def _sum_of_others(targets: Tensor, view: int) -> Tensor:
    if len(targets) == 2:
        return targets[1 - view]
    return torch.cat([targets[:view], targets[view + 1 :]]).sum(dim=0)


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
    rows = _FusedCrossEntropy.apply(
        logits.reshape(1, -1, K), temperature, [1], targets.detach().reshape(-1, K)
    )
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


class _FusedCrossEntropy(torch.autograd.Function):
    """Rows `[V, R]` of `mass * logsumexp(x) - <targets, x>` for logits `[V, R, K]` and V targets `[R, K]`."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, temperature: float, masses: list[int], *targets: Tensor) -> Tensor:
        V, R, K = logits.shape
        losses = at_least_float32(logits.new_zeros(V, R))
        tops, sums = torch.zeros_like(losses), torch.ones_like(losses)
        for view, mass in enumerate(masses):
            for rows in row_blocks(R if mass else 0, K, logits.device, scale=0.5):
                x = at_least_float32(logits[view, rows]) * (1 / temperature)
                top = tops[view, rows] = x.amax(dim=1)
                # Shifted by the maximum before the product, lest large logits cancel.
                x.sub_(top[:, None])
                product = torch.linalg.vecdot(x, targets[view][rows].to(x.dtype))
                total = sums[view, rows] = x.exp_().sum(dim=1)
                losses[view, rows] = mass * total.log() - product
        ctx.save_for_backward(logits, tops, sums, *targets)
        ctx.temperature, ctx.masses = temperature, masses
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        logits, tops, sums, *targets = ctx.saved_tensors
        R, K = logits.shape[1:]
        gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
        scale = gradients[0] / ctx.temperature
        for view, mass in enumerate(ctx.masses):
            if not mass:
                gradient[view].zero_()
            for rows in row_blocks(R if mass else 0, K, logits.device, scale=0.5):
                x = at_least_float32(logits[view, rows]) * (1 / ctx.temperature)
                x.sub_(tops[view, rows, None]).exp_().mul_(mass / sums[view, rows, None])
                x.sub_(targets[view][rows].to(x.dtype))
                torch.mul(x, scale[view, rows, None], out=x)
                gradient[view, rows] = x
        return gradient, None, None, *(None for _ in targets)
