"""Values that change over a run, as pure functions of its progress: momentum, temperatures."""

from __future__ import annotations

import math

__all__ = ["cosine", "linear_warmup"]


def cosine(start: float, end: float, fraction: float) -> float:
    """From `start` at fraction 0 to `end` at fraction 1 along half a cosine (Loshchilov and Hutter 2017, eq. 5).

    >>> cosine(1.0, 0.0, 0.5)
    0.5
    """
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, max(0.0, fraction)))) / 2


def linear_warmup(start: float, end: float, steps: float, step: int) -> float:
    """From `start` at step 0 to `end` at step `steps - 1`, then constant; `end` at once for 1 step or fewer.

    The last step of the warm-up has the final value, as the temperatures of DINO's code do epoch by epoch.

    >>> [round(linear_warmup(0.04, 0.07, 4, step), 2) for step in (0, 1, 3, 9)]
    [0.04, 0.05, 0.07, 0.07]
    """
    if steps <= 1 or step >= steps - 1:
        return end
    return start + (end - start) * step / (steps - 1)
