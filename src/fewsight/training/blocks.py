"""The parts of a network that are run one after the other: what is compiled, recomputed and sharded as a unit."""

from __future__ import annotations

from torch import nn

__all__ = ["compute_blocks"]


def compute_blocks(network: nn.Module) -> list[nn.Module]:
    """Transformer blocks, residual blocks or convolution blocks of a backbone, in order.

    A network that names none (`blocks` of it, or of timm's network inside it) gives its children that have
    parameters.

    >>> [type(block).__name__ for block in compute_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))]
    ['Linear']
    """
    inner = getattr(network, "model", network)
    for owner in (network, inner):
        blocks = getattr(owner, "blocks", None)
        if isinstance(blocks, nn.Sequential | nn.ModuleList):
            return list(blocks)
    return [child for child in inner.children() if next(child.parameters(), None) is not None]
