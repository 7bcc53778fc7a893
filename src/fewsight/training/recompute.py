"""Gradient checkpointing: activations inside a block are not kept but computed again in the backward pass.

Tianqi Chen et al., "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174). One more forward pass; memory of
the blocks' inputs and of one block. Values and gradients are the same: random numbers are repeated, and buffers such as
the moments of batch norm move once, not twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["recompute_blocks"]


def recompute_blocks(blocks: Iterable[nn.Module]) -> None:
    """Make each block recompute itself in training. Its parameters, names and copies stay as they are."""
    for block in blocks:
        kind = type(block)
        if not issubclass(kind, _Recomputed):
            block.__class__ = type(f"Recomputed{kind.__name__}", (_Recomputed, kind), {})


class _Recomputed(nn.Module):
    def forward(self, *inputs: Any, **options: Any) -> Any:
        run = super().forward
        if not (self.training and torch.is_grad_enabled()):
            return run(*inputs, **options)

        def contexts() -> tuple[Any, Any]:
            return contextlib.nullcontext(), _buffers_kept(self)

        return checkpoint(run, *inputs, use_reentrant=False, context_fn=contexts, **options)


@contextlib.contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    before = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
