"""Gradients made shorter: by their common norm, each by its own, or normalised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fewsight.distributed import all_reduce_sum
from fewsight.training.sharding import is_sharded, local

__all__ = ["clip_gradients", "gradient_norm"]

SMALLEST = 1e-5  # of the squared norm, in CrossTransformers' normalisation


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Euclidean norm of all gradients together, float32; parameters without one do not count."""
    return _norms([parameter.grad for parameter in parameters if parameter.grad is not None]).norm()


@torch.no_grad()
def clip_gradients(
    parameters: Sequence[nn.Parameter],
    limit: float,
    rule: Literal["global", "parameter", "normalise"] = "global",
) -> None:
    """Change the gradients in place.

    Args:
        limit: largest norm after it.
        rule: `global`: all gradients are multiplied by min(1, limit / (norm + 1e-6)) of their common norm.
            `parameter`: each by that of its own norm (DINO's and iBOT's code). `normalise`: all by
            limit / sqrt(max(norm^2, 1e-5)), also when it is below (CrossTransformers' code; limit 1 there).
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = _norms(gradients)
    if rule != "parameter":
        norms = norms.norm().expand(len(norms))
    factors = (
        limit / norms.square().clamp(min=SMALLEST).sqrt()
        if rule == "normalise"
        else (limit / (norms + 1e-6)).clamp(max=1.0)
    )
    for gradient, factor in zip(gradients, factors.tolist(), strict=True):
        if factor != 1.0:
            gradient.mul_(factor)


def _norms(gradients: list[Tensor]) -> Tensor:
    """Euclidean norm of each, float32 [P]; a collective call where gradients are sharded."""
    if not gradients:
        return torch.zeros(0)
    squares = torch.stack(
        [norm.float() for norm in torch._foreach_norm([local(g) for g in gradients])]
    ).square()
    parts = torch.tensor([is_sharded(gradient) for gradient in gradients], device=squares.device)
    if parts.any():  # each process has seen a part of these
        squares[parts] = all_reduce_sum(squares[parts])
    return squares.sqrt()
