"""Row blocks of a bounded number of elements: large matrices are swept, never copied whole."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["at_least_float32", "full_precision", "row_blocks"]

# 2 MiB of float32 stay in the cache of one core; an accelerator wants few, large kernels instead.
CPU_ELEMENTS = 1 << 19
DEVICE_ELEMENTS = 1 << 26


def row_blocks(rows: int, columns: int, device: torch.device, *, scale: float = 1.0) -> Iterator[slice]:
    """Slices that cover `rows` rows of `columns` elements each, in order.

    Args:
        scale: share of the usual block size, for sweeps that hold several blocks at a time.

    >>> list(row_blocks(5, 1 << 18, torch.device("cpu")))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    elements = (CPU_ELEMENTS if device.type == "cpu" else DEVICE_ELEMENTS) * scale
    step = max(1, int(elements) // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def full_precision(tensor: Tensor) -> torch.autocast:
    """A context in which autocast does not take products of `tensor` down to 16 bits.

    Losses need it even where they look harmless: matrix-vector and row products are cast as well.
    """
    return torch.autocast(tensor.device.type, enabled=False)


def at_least_float32(tensor: Tensor) -> Tensor:
    """`tensor` in float32 if it has fewer bits (half, bfloat16, integers), else as it is."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
