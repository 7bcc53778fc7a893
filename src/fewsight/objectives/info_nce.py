"""The contrastive sum that SimCLR and MoCo-v3 share: each query tells its own key from all others.

    sum over i of  logsumexp_j (q_i . k_j / T)  -  q_i . k_pos(i) / T,     j runs over all keys but the query itself

Value and gradient are made in one sweep over blocks of rows: scores, softmax P, and the products P k and P^T q.
The matrix of all scores never exists.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewsight.objectives.blocks import at_least_float32, full_precision, row_blocks

__all__ = ["contrastive_sum", "unit_rows"]


def unit_rows(features: Tensor) -> Tensor:
    """Rows of unit length in float32 at least; a zero row stays zero."""
    return F.normalize(at_least_float32(features), dim=-1)


def contrastive_sum(
    queries: Tensor, keys: Tensor, positives: Tensor, temperature: float, itself: Tensor | None = None
) -> Tensor:
    """Sum over queries of the InfoNCE loss; gradients flow to queries and keys.

    Args:
        queries: `[M, D]`, unit rows.
        keys: `[N, D]`, unit rows.
        positives: int `[M]`, the key that belongs to each query.
        temperature: above 0.
        itself: int `[M]`, a key that is left out for each query; None leaves none out.

    Returns:
        Scalar. Peak memory: the gradients and a block of scores.
    """
    # An autograd function cannot see from inside whether gradients are off.
    trained = tuple(torch.is_grad_enabled() and tensor.requires_grad for tensor in (queries, keys))
    return _ContrastiveSum.apply(queries, keys, trained, positives, temperature, itself)


class _ContrastiveSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        trained: tuple[bool, bool],
        positives: Tensor,
        temperature: float,
        itself: Tensor | None,
    ) -> Tensor:
        for_queries, for_keys = trained
        query_gradient = torch.empty_like(queries) if for_queries else None
        key_gradient = torch.zeros_like(keys) if for_keys else None
        total = queries.new_zeros(())
        with full_precision(queries):
            for rows in row_blocks(len(queries), len(keys), queries.device):
                block = queries[rows] / temperature
                loss, exponentials, sums = _block(block, keys, positives[rows], itself, rows)
                total += loss
                # The softmax is exponentials / sums: small matrices are divided in place of the large one.
                if query_gradient is not None:
                    product = torch.mm(exponentials, keys).div_(sums)
                    query_gradient[rows] = product.sub_(keys[positives[rows]])
                if key_gradient is not None:
                    key_gradient.addmm_(exponentials.T, block / sums)
                    key_gradient.index_add_(0, positives[rows], block, alpha=-1)
        if query_gradient is not None:
            query_gradient /= temperature
        ctx.save_for_backward(query_gradient, key_gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        products = [None if saved is None else saved * gradients[0] for saved in ctx.saved_tensors]
        return *products, None, None, None, None


def _block(
    block: Tensor, keys: Tensor, positives: Tensor, itself: Tensor | None, rows: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss, exponentials `[m, N]` and their sums `[m, 1]` of a block of scaled queries `[m, D]`."""
    scores = block @ keys.T
    if itself is not None:
        scores.scatter_(1, itself[rows, None], -torch.inf)
    scores.sub_(scores.amax(dim=1, keepdim=True))
    positive = scores.gather(1, positives[:, None])
    sums = scores.exp_().sum(dim=1, keepdim=True)
    return (sums.log() - positive).sum(), scores, sums
