"""MSN: masked siamese networks, clustering of partly dropped views onto prototypes.

Assran, Caron, Misra, Bojanowski, Bordes, Vincent, Joulin, Rabbat, Ballas: Masked Siamese Networks for
Label-Efficient Learning (ECCV 2022), section 3. With unit rows a (anchors), h (targets), c (prototypes):

    q = softmax(a c^T / T),   p = softmax(h c^T / (T S)) [, then Sinkhorn],
    L = mean H(p, q) + w (ln K - H(mean q)) + u mean H(q)

The paper's sharpening p^(1/S) / sum p^(1/S) of a softmax at T is the softmax at T S.

Differs from the authors' code: all in log space (theirs takes the log of q^-p, infinite when q underflows);
anchors are swept in blocks and scores are made again in the backward pass, so that [V B, K] never exists but for
the targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewsight.distributed import global_rows
from fewsight.errors import InvalidInput
from fewsight.objectives import assignments
from fewsight.objectives.blocks import full_precision, row_blocks
from fewsight.objectives.info_nce import unit_rows
from fewsight.objectives.ranges import check_positive
from fewsight.shapes import check_shapes

__all__ = ["MsnLosses", "msn_loss"]


class MsnLosses(NamedTuple):
    """Unweighted scalars, and the targets `[V B, K]` that the anchors were given (without gradient)."""

    cross_entropy: Tensor
    me_max: Tensor
    entropy: Tensor
    targets: Tensor


def msn_loss(
    anchors: Tensor,
    targets: Tensor,
    prototypes: Tensor,
    temperature: float,
    sharpening: float,
    sinkhorn: bool,
    sinkhorn_iterations: int,
    me_max_weight: float,
    entropy_weight: float,
) -> MsnLosses:
    """The three terms; the loss is `cross_entropy + me_max_weight * me_max + entropy_weight * entropy`.

    Gradients reach anchors and, through them alone, prototypes. The weights do not change the terms; a weight
    of 0 detaches its term, so that the weighted sum stays exact.

    Args:
        anchors: `[V B, D]`, view-major; normalised inside, as all three are.
        targets: `[B, D]`, of the teacher; each serves all anchors of its image.
        prototypes: `[K, D]`.
        temperature: T, published 0.1.
        sharpening: S, published 0.25.
        sinkhorn: whether the sharpened targets are balanced, over the targets of all ranks.
        sinkhorn_iterations: published 3; not looked at without `sinkhorn`.

    Raises:
        InvalidInput: wrong shapes or ranges, anchors that are no multiple of targets.
    """
    check_shapes(anchors=(anchors, "M D"), targets=(targets, "B D"), prototypes=(prototypes, "K D"))
    M, B = len(anchors), len(targets)
    check_positive(temperature=temperature, sharpening=sharpening)
    if B < 1 or M < 1 or M % B:
        raise InvalidInput(
            f"anchors has {M} rows for {B} targets; expected a whole number of views, V * B rows."
        )
    with full_precision(anchors):
        units = unit_rows(prototypes)
        iterations = sinkhorn_iterations if sinkhorn else None
        assigned = _assigned(
            unit_rows(targets.detach()), units.detach(), temperature * sharpening, iterations
        )
        terms = _PrototypeTerms.apply(unit_rows(anchors), units, assigned, temperature)
        cross_entropy, entropy, total = terms
        spread = assignments.mean_entropy_gap(total, M)
    count = global_rows(M, anchors.device)
    return MsnLosses(
        cross_entropy / count,
        spread if me_max_weight else spread.detach(),
        (entropy if entropy_weight else entropy.detach()) / count,
        assigned.repeat(M // B, 1) if M > B else assigned,
    )


@torch.no_grad()
def _assigned(targets: Tensor, prototypes: Tensor, temperature: float, iterations: int | None) -> Tensor:
    """Sharpened, and where asked for balanced, distributions `[B, K]` of the targets."""
    scores = targets.new_empty(len(targets), len(prototypes))
    for rows in row_blocks(len(targets), len(prototypes), scores.device):
        block = (targets[rows] / temperature) @ prototypes.T
        # The authors balance the sharpened probabilities: rows are normalised before the first column step.
        normalise = torch.softmax if iterations is None else torch.log_softmax
        normalise(block, dim=1, out=scores[rows])
    return scores if iterations is None else assignments.sinkhorn(scores, 1.0, iterations)


class _PrototypeTerms(torch.autograd.Function):
    """Sums over anchors of H(p, q) and H(q), and the sum of q `[K]`, for q = softmax(a c^T / T)."""

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, prototypes: Tensor, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(anchors, prototypes, targets)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        cross_entropy, entropy = anchors.new_zeros(()), anchors.new_zeros(())
        total = anchors.new_zeros(len(prototypes))
        for rows, own in _anchor_blocks(anchors, prototypes, targets):
            log_q = torch.log_softmax((anchors[rows] / temperature) @ prototypes.T, dim=1)
            cross_entropy -= torch.dot(targets[own].flatten(), log_q.flatten())
            q = log_q.exp()
            entropy -= torch.dot(q.flatten(), log_q.flatten())
            total += q.sum(dim=0)
        return cross_entropy, entropy, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        anchors, prototypes, targets = ctx.saved_tensors
        anchor_gradient, prototype_gradient = torch.empty_like(anchors), torch.zeros_like(prototypes)
        with full_precision(anchors):
            for rows, own in _anchor_blocks(anchors, prototypes, targets):
                scores = (anchors[rows] / ctx.temperature) @ prototypes.T
                by_scores = _score_gradient(scores, targets[own], *gradients)
                torch.mm(by_scores, prototypes, out=anchor_gradient[rows])
                prototype_gradient.addmm_(by_scores.T, anchors[rows])
        return anchor_gradient.div_(ctx.temperature), prototype_gradient.div_(ctx.temperature), None, None


def _score_gradient(
    scores: Tensor,
    targets: Tensor,
    cross_entropy: Tensor | None,
    entropy: Tensor | None,
    total: Tensor | None,
) -> Tensor:
    """Gradient `[m, K]` by the scores of a block, from those of the three sums; a sum nobody used has None.

    `q (g - <q, g>)` is the gradient of what has the gradient g by q: `total` for the sum of q, `-log q - 1` for
    the entropy, where the constant cancels. The cross-entropy adds `q - p`.
    """
    q = torch.softmax(scores, dim=1)
    weight = q.new_zeros(()) if cross_entropy is None else cross_entropy
    row = weight.expand(len(q))
    if total is not None:
        row = row - q @ total
    by_scores = q * row[:, None]
    if total is not None:
        by_scores.addcmul_(q, total)
    if entropy is not None:
        log_q = torch.log_softmax(scores, dim=1)
        log_q.sub_(torch.linalg.vecdot(q, log_q)[:, None])
        by_scores.addcmul_(q, log_q * -entropy)
    return by_scores.addcmul_(targets, weight, value=-1)


def _anchor_blocks(anchors: Tensor, prototypes: Tensor, targets: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows of anchors and the rows of the targets that belong to them, view by view."""
    B = len(targets)
    for start in range(0, len(anchors), B):
        for own in row_blocks(B, len(prototypes), anchors.device):
            yield slice(start + own.start, start + own.stop), own
