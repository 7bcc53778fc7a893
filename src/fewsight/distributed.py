"""Collectives that are identities in one process, so that the mathematics is written once.

Convention: each rank computes a loss whose mean over ranks is the loss of the global batch, and the engine
averages gradients over ranks (as DDP does). Then `all_reduce_sum` and `gather` pass gradients that make this
average equal to the gradient of one process on the concatenated batch: a tensor that every rank's loss reads
receives the sum of what the ranks send back. `torch.distributed.all_reduce` itself has no backward.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "all_reduce_max",
    "all_reduce_sum",
    "average_gradients",
    "barrier",
    "gather",
    "gathered_rows",
    "global_count",
    "global_rows",
    "is_distributed",
    "is_main",
    "rank",
    "rows_before",
    "world_size",
]


def is_distributed() -> bool:
    """Whether a process group of more than one process is running."""
    return world_size() > 1


def rank() -> int:
    """Number of this process, 0 in a single process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes work together, 1 in a single process."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes files and talks."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if is_distributed():
        dist.barrier()


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over ranks, in one message.

    One that some ranks lack counts as zero there; one that all ranks lack stays missing, so that an optimiser leaves
    its parameter alone (a gradient of zeros would still let it decay).
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    if not is_distributed() or not wanted:
        return
    pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in wanted]
    present = pieces[0].new_tensor([float(p.grad is not None) for p in wanted])
    flat = torch.cat([*(piece.flatten() for piece in pieces), present])
    dist.all_reduce(flat)
    *means, held = torch.split(flat / world_size(), [*(p.numel() for p in wanted), len(wanted)])
    for parameter, mean, anywhere in zip(wanted, means, held.tolist(), strict=True):
        parameter.grad = mean.view_as(parameter).clone() if anywhere else None


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum over ranks of tensors of one shape; differentiable (backward sums the gradients over ranks).

    Returns `tensor` itself in a single process; never changes it.
    """
    return _AllReduceSum.apply(tensor) if is_distributed() else tensor


def all_reduce_max(tensor: Tensor) -> Tensor:
    """Largest value over ranks, element by element; without gradient."""
    if not is_distributed():
        return tensor.detach()
    largest = tensor.detach().clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def gather(tensor: Tensor) -> Tensor:
    """Concatenate along axis 0 in the order of ranks; differentiable (backward sums over ranks).

    Ranks may hold different numbers of rows; a last, smaller batch included.
    """
    return _Gather.apply(tensor) if is_distributed() else tensor


@torch.no_grad()
def gathered_rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """Some rows of `gather(tensor)`, by number; without gradient, and never more than one rank's part at a time.

    Args:
        tensor: this rank's part.
        rows: int64 `[n]`, of the parts of all ranks one after the other; each rank may want others.
    """
    if not is_distributed():
        return tensor.detach()[rows]
    own = tensor.detach().contiguous()
    found, first = own.new_empty((len(rows), *own.shape[1:])), 0
    for source, count in enumerate(_row_counts(tensor)):
        part = own if source == rank() else own.new_empty((count, *own.shape[1:]))
        dist.broadcast(part, src=source)
        inside = (rows >= first) & (rows < first + count)
        found[inside] = part[rows[inside] - first]
        first += count
    return found


def rows_before(tensor: Tensor) -> int:
    """Where this rank's rows begin in `gather(tensor)`; 0 in a single process."""
    return sum(_row_counts(tensor)[: rank()]) if is_distributed() else 0


def global_count(count: Tensor) -> Tensor:
    """What a sum over the local part of a batch is divided by, so that the mean over ranks is the global mean.

    Args:
        count: how many values the local sum holds, a number in a tensor.

    Returns:
        The sum of counts over ranks, divided by the number of ranks: `count` itself in a single process.
    """
    return all_reduce_sum(count.detach()) / world_size() if is_distributed() else count.detach()


def global_rows(rows: int, device: torch.device) -> Tensor | int:
    """`global_count` of a number that is known without looking at a tensor."""
    return global_count(torch.tensor(float(rows), device=device)) if is_distributed() else rows


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.sizes = _row_counts(tensor)
        # Collectives want one shape on all ranks: shorter parts are padded and cut again.
        padded = tensor.new_zeros((max(ctx.sizes), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor.detach()
        parts = [torch.empty_like(padded) for _ in ctx.sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, ctx.sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        start = sum(ctx.sizes[: rank()])
        return total[start : start + ctx.sizes[rank()]]


def _row_counts(tensor: Tensor) -> list[int]:
    counts = torch.zeros(world_size(), dtype=torch.int64, device=tensor.device)
    counts[rank()] = len(tensor)
    dist.all_reduce(counts)
    return [int(count) for count in counts.tolist()]
