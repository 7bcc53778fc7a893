"""Means against collapse, one selectable part of every clustering objective.

    none             assignments as they come: one prototype wins everything
    centring         a moving mean is taken off the teacher's logits                (DINO)
    sinkhorn         prototypes share the batch equally                             (SwAV, DINOv2)
    memax            ln K - H(mean student distribution) is added to the loss       (MSN)
    centring+memax, sinkhorn+memax

Centring and Sinkhorn together are redundant and refused. The mathematics is in `fewsight.objectives.assignments`;
here live the centre and when it moves: once per optimiser step, after the loss, by the mean over all micro-batches
and ranks, never in evaluation.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fewsight.distributed import all_reduce_sum
from fewsight.errors import InvalidInput
from fewsight.objectives.assignments import AssignmentMethod, assign, mean_entropy_gap
from fewsight.objectives.blocks import at_least_float32, full_precision, row_blocks
from fewsight.objectives.ranges import check_choice, check_positive, check_within

__all__ = ["AVOIDANCES", "Avoidance", "CollapseAvoidance", "softmax_sum", "student_spread"]

Avoidance = Literal["none", "centring", "sinkhorn", "memax", "centring+memax", "sinkhorn+memax"]
AVOIDANCES: tuple[str, ...] = (
    "none",
    "centring",
    "sinkhorn",
    "memax",
    "centring+memax",
    "sinkhorn+memax",
)


class CollapseAvoidance(nn.Module):
    """Assigns the teacher's logits and keeps the state that this needs.

    Args:
        prototypes: K.
        method: one of `AVOIDANCES`.
        center_momentum: of the centre, published 0.9.
        iterations: of Sinkhorn, published 3.

    Attributes:
        assignment: how teacher logits become targets.
        adds_spread: whether ME-MAX belongs to the loss.
        center: `[K]` with centring, else None; saved with a checkpoint.
    """

    center: Tensor | None
    _total: Tensor
    _count: Tensor

    def __init__(
        self, prototypes: int, method: Avoidance, *, center_momentum: float = 0.9, iterations: int = 3
    ) -> None:
        super().__init__()
        check_choice(AVOIDANCES, collapse=method)
        check_within(0, 1, center_momentum=center_momentum)
        parts = method.split("+")
        self.adds_spread = "memax" in parts
        self.assignment = cast("AssignmentMethod", "none" if parts[0] == "memax" else parts[0])
        self.center_momentum, self.iterations = center_momentum, iterations
        centred = self.assignment == "centring"
        self.register_buffer("center", torch.zeros(prototypes) if centred else None)
        # Sums of one step, never saved: a checkpoint stands between two steps.
        self.register_buffer("_total", torch.zeros(prototypes if centred else 0), persistent=False)
        self.register_buffer("_count", torch.zeros(1), persistent=False)

    def targets(self, scores: Tensor, temperature: float) -> Tensor:
        """Distributions `[..., K]` of teacher logits; without gradient."""
        return assign(scores, self.assignment, temperature, self.center, self.iterations)

    @torch.no_grad()
    def observe(self, scores: Tensor) -> None:
        """Count teacher logits `[..., K]` of this step towards the next centre."""
        if self.center is not None:
            rows = scores.detach().reshape(-1, scores.shape[-1])
            self.observe_sum(at_least_float32(rows).sum(0), len(rows))

    @torch.no_grad()
    def observe_sum(self, total: Tensor, count: int) -> None:
        """The same of `count` rows that are summed already."""
        if self.center is not None and self.training:
            self._total += total
            self._count += count

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the centre by what was observed since the last step, on all ranks."""
        if self.center is None:
            return
        total, count = all_reduce_sum(self._total), all_reduce_sum(self._count)
        if count:
            self.center.mul_(self.center_momentum).add_(total / count, alpha=1 - self.center_momentum)
        self._total.zero_()
        self._count.zero_()


def student_spread(logits: Tensor, temperature: float) -> Tensor:
    """ME-MAX of student logits `[..., K]`: `ln K - H(mean of softmax(logits / temperature))`, over all ranks.

    Source: Assran et al., MSN (ECCV 2022), section 3; `fewsight.objectives.assignments.me_max` of the same
    distributions, which are never kept.
    """
    rows = logits.reshape(-1, logits.shape[-1])
    return mean_entropy_gap(softmax_sum(rows, temperature), len(rows))


def softmax_sum(logits: Tensor, temperature: float) -> Tensor:
    """Sum over rows of `softmax(logits / temperature)`, `[R, K]` -> `[K]`; carries gradient, keeps no copy."""
    check_positive(temperature=temperature)
    if logits.ndim != 2:
        raise InvalidInput(f"logits has shape {list(logits.shape)}; expected [R, K].")
    total: Tensor = _SoftmaxSum.apply(logits, temperature)
    return total


class _SoftmaxSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.temperature = temperature
        total = at_least_float32(logits[:0]).new_zeros(logits.shape[1])
        for rows in row_blocks(len(logits), logits.shape[1], logits.device):
            total += torch.softmax(at_least_float32(logits[rows]) / temperature, dim=1).sum(0)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        (logits,) = ctx.saved_tensors
        by_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
        with full_precision(logits):
            by_total = gradients[0] / ctx.temperature
            for rows in row_blocks(len(logits), logits.shape[1], logits.device):
                q = torch.softmax(at_least_float32(logits[rows]) / ctx.temperature, dim=1)
                # q (g - <q, g>): the gradient of the softmax by what has the gradient g.
                by_logits[rows] = q * (by_total - (q @ by_total)[:, None])
        return by_logits, None
