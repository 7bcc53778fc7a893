"""LITE: the exact loss of a large support set, its gradient through a few supports.

John Bronskill et al., "Memory Efficient Meta-Learning with Large Images", NeurIPS 2021 (arXiv 2107.01105), section 3.
All S supports enter the loss; gradients flow through H of them, multiplied by S / H, which makes the estimate unbiased
as long as no normalisation couples the images.

Differs from the authors' code: it leaves out the factor S / H (`rescale=False`), which is biased.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.seeding import torch_generator

__all__ = ["draw_subset", "subset_gradients"]


def subset_gradients(features: Tensor, keep: Tensor, *, rescale: bool = True) -> Tensor:
    """The same features, with gradients through some rows only.

    Args:
        features: `[S, ...]`.
        keep: rows whose gradient is kept, distinct integers `[H]`.
        rescale: multiply their gradient by S / H.

    Raises:
        InvalidInput: `keep` is empty, repeats a row, or names one that does not exist.

    >>> features = torch.ones(4, 1, requires_grad=True)
    >>> subset_gradients(features, torch.tensor([2])).sum().backward()
    >>> features.grad[:, 0]
    tensor([0., 0., 4., 0.])
    """
    S = len(features)
    if keep.ndim != 1 or not len(keep) or keep.is_floating_point() or keep.dtype == torch.bool:
        raise InvalidInput(
            f"keep has shape {list(keep.shape)}, dtype {keep.dtype}; expected row numbers [H]."
        )
    if keep.min() < 0 or keep.max() >= S or len(torch.unique(keep)) < len(keep):
        raise InvalidInput(f"keep is {keep.tolist()[:8]}; expected distinct rows from 0 to {S - 1}.")
    weights = features.new_zeros(S)
    weights[keep] = S / len(keep) if rescale else 1.0
    return _WeightedGradient.apply(features, weights.view(-1, *[1] * (features.ndim - 1)))


class _WeightedGradient(torch.autograd.Function):
    """The identity, with its gradient multiplied by `weights`: values stay the same to the last bit."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, features: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return features.view_as(features)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (weights,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * weights, None


def draw_subset(supports: int, size: int, *, seed: int, step: int) -> Tensor:
    """`size` of `supports` rows (all of them if there are no more), a function of (seed, step); ascending.

    >>> len(draw_subset(500, 40, seed=0, step=3))
    40
    """
    if supports < 1 or size < 1:
        raise InvalidInput(
            f"{size} of {supports} supports were asked for; expected at least 1 of at least 1."
        )
    order = torch.randperm(supports, generator=torch_generator(seed, "lite subset", step))
    return order[:size].sort().values
