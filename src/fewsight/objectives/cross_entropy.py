"""Cross-entropy between fixed soft targets and softmax(logits / temperature), with a fused gradient.

    H(p, q) = logsumexp(x) - <p, x>,  x = logits / temperature;     dH/dx = softmax(x) - p

A student view that meets several teacher views needs the sum T of their targets only, as the cross-entropy is
linear in them: value `n logsumexp(x) - <T, x>`, gradient `n softmax(x) - T`, for n = sum of T. Value and gradient
are made in one sweep over blocks of rows, so that besides the gradient itself no copy of the logits is made;
targets can be made block by block as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewsight.distributed import global_rows
from fewsight.errors import FewsightError, InvalidInput
from fewsight.objectives.blocks import at_least_float32, full_precision, row_blocks
from fewsight.objectives.ranges import check_positive
from fewsight.shapes import check_shapes

__all__ = [
    "mean_cross_entropy",
    "patch_cross_entropy",
    "streamed_view_cross_entropy",
    "view_cross_entropy",
]

# The targets of each of V views for a slice of rows; views that meet no target have None.
TargetsOf = Callable[[slice], Sequence[Tensor | None]]


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
    student: Tensor,
    target_views: int,
    targets_of: Callable[[slice], Tensor],
    temperature: float,
    *,
    overwrite: bool = False,
) -> Tensor:
    """`view_cross_entropy` of targets that are made block by block, `[G, rows, K]` for a slice of images.

    They may be asked for more than once, and must be the same each time.

    Args:
        overwrite: the memory of `student` becomes that of its gradient; see `dino_loss`.

    Raises:
        InvalidInput: also where a leaf would be overwritten.
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
    weight = _one_over(pairs * global_rows(B, student.device), student)
    if overwrite and student.is_leaf and student.requires_grad:
        raise InvalidInput(
            "overwrite would write the gradient over a parameter; expected logits that were computed."
        )

    def met(rows: slice) -> Sequence[Tensor | None]:
        return _met(targets_of(rows), V)

    return _fused(student, weight.expand(V, B), temperature, masses, met, overwrite=overwrite)


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


def mean_cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Mean over all rows, for student logits and target distributions `[..., K]`; 0 without rows.

    >>> mean_cross_entropy(torch.zeros(3, 2), torch.tensor([[1.0, 0.0]] * 3), 0.1)
    tensor(0.6931)
    """
    count = global_rows(max(1, logits.shape[:-1].numel()), logits.device)
    weights = _one_over(count, logits).expand(logits.shape[:-1])
    return _weighted(logits, targets, weights, temperature)


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
    counts = mask.sum(dim=-1, keepdim=True).clamp(min=1)
    images = global_rows(max(1, counts.numel()), logits.device)
    weights = _one_over(images, logits) * (mask / counts)[mask]
    return _weighted(logits, targets, weights, temperature)


def _weighted(logits: Tensor, targets: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Sum over rows of weight times cross-entropy."""
    check_positive(temperature=temperature)
    if logits.shape != targets.shape or logits.ndim < 2 or logits.shape[:-1] != weights.shape:
        raise InvalidInput(
            f"logits, targets and rows have shapes {list(logits.shape)}, {list(targets.shape)} and "
            f"{list(weights.shape)}; expected [..., K], [..., K] and [...]."
        )
    flat, K = targets.detach().reshape(-1, targets.shape[-1]), logits.shape[-1]
    weights = weights.to(at_least_float32(logits[:0]).dtype).reshape(1, -1)
    return _fused(logits.reshape(1, -1, K), weights, temperature, [1], lambda rows: [flat[rows]])


def _one_over(count: int | Tensor, like: Tensor) -> Tensor:
    """`1 / count` in the precision of the loss."""
    dtype = at_least_float32(like[:0]).dtype
    return torch.as_tensor(count, device=like.device).to(dtype).reciprocal()


def _fused(
    logits: Tensor,
    weights: Tensor,
    temperature: float,
    masses: Sequence[int],
    targets_of: TargetsOf,
    *,
    overwrite: bool = False,
) -> Tensor:
    """Weighted sum of `mass logsumexp(x) - <targets, x>` for logits `[V, R, K]` and weights `[V, R]`."""
    # An autograd function cannot see from inside whether gradients are off.
    trained = torch.is_grad_enabled() and logits.requires_grad
    return _FusedCrossEntropy.apply(logits, weights, trained, overwrite, temperature, masses, targets_of)


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        weights: Tensor,
        trained: bool,
        overwrite: bool,
        temperature: float,
        masses: Sequence[int],
        targets_of: TargetsOf,
    ) -> Tensor:
        ctx.settings, ctx.overwrite = (temperature, masses, targets_of), overwrite
        # 16-bit gradients wait for the backward pass: loss scaling comes before their rounding.
        at_once = trained and logits.dtype == weights.dtype
        ctx.gradient = _place(logits, overwrite) if at_once else None
        if at_once and overwrite:  # logits are gone then; autograd's own check would find them changed
            ctx.save_for_backward()
        else:
            ctx.save_for_backward(logits, weights)
        with full_precision(logits):
            return _sweep(logits, weights, ctx.gradient, temperature, masses, targets_of)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        (scale,) = gradients
        # Given away once, as whoever gets it may write to it; a second backward pass makes it again.
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            if not ctx.saved_tensors:
                raise FewsightError(
                    "the gradient of overwritten logits was asked for twice; call the loss without overwrite."
                )
            logits, weights = ctx.saved_tensors
            gradient = _place(logits, ctx.overwrite)
            with full_precision(logits):
                _sweep(logits, weights * scale, gradient, *ctx.settings)
        elif scale.device.type != "cpu" or scale.item() != 1:
            gradient.mul_(scale)
        return gradient, None, None, None, None, None, None


def _place(logits: Tensor, overwrite: bool) -> Tensor:
    """Where the gradient is written: over the logits, each block when it has been read, or into memory of its own.

    `detach` shares the count of changes, so that autograd refuses any other use of the overwritten logits.
    """
    if overwrite and logits.is_contiguous():
        return logits.detach()
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _sweep(
    logits: Tensor,
    weights: Tensor,
    gradient: Tensor | None,
    temperature: float,
    masses: Sequence[int],
    targets_of: TargetsOf,
) -> Tensor:
    """The loss; `gradient` `[V, R, K]`, where given, is filled."""
    V, R, K = logits.shape
    losses = torch.zeros_like(weights, memory_format=torch.contiguous_format)
    places: Sequence[Tensor | None] = [None] * V
    for rows in row_blocks(R, K, logits.device, scale=0.25):
        if gradient is not None:
            places = gradient[:, rows].unbind()
        of_views = targets_of(rows)
        for view, (mass, place, targets) in enumerate(zip(masses, places, of_views, strict=True)):
            if targets is not None:
                _fill(
                    logits[view, rows],
                    losses[view, rows],
                    weights[view, rows],
                    place,
                    mass,
                    targets,
                    temperature,
                )
            elif place is not None:
                place.zero_()
    return losses.sum()


def _fill(
    block: Tensor,
    losses: Tensor,
    weights: Tensor,
    gradient: Tensor | None,
    mass: int,
    targets: Tensor,
    temperature: float,
) -> None:
    """Write losses `[m]` and gradient `[m, K]` of one block of one view."""
    block = at_least_float32(block)
    targets = targets.to(block.dtype)
    top = block.amax(dim=1, keepdim=True).div_(-temperature)
    # Shifted by the maximum before the product, lest large logits cancel.
    x = torch.add(top, block, alpha=1 / temperature)
    product = torch.linalg.vecdot(x, targets)
    total = x.exp_().sum(dim=1)
    torch.mul(total.log().mul_(mass).sub_(product), weights, out=losses)
    if gradient is None:
        return
    scale = (weights / temperature)[:, None]
    # Full-precision gradients are made in place, without a copy of the block.
    out = gradient if gradient.dtype == x.dtype else x
    torch.mul(x, scale * mass / total[:, None], out=out).addcmul_(targets, scale, value=-1)
    if out is not gradient:
        gradient.copy_(out)
