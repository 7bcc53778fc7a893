"""Randomness as a function of (seed, stream name, index).

Episode 17 is the same whatever ran before it, on however many workers or ranks: each draw asks for a generator
of its own by name and index, and nothing ever advances a shared state.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy

if TYPE_CHECKING:
    import torch

__all__ = ["numpy_generator", "random_state", "stream_seed", "torch_generator"]


def stream_seed(seed: int, stream: str, *index: int) -> int:
    """A 64-bit seed for one named stream and index.

    >>> stream_seed(0, "episode", 3) == stream_seed(0, "episode", 3)
    True
    >>> stream_seed(0, "episode", 3) == stream_seed(0, "episode", 4)
    False
    """
    text = ":".join([str(int(seed)), stream, *(str(int(part)) for part in index)])
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def torch_generator(
    seed: int, stream: str, *index: int, device: str | torch.device = "cpu"
) -> torch.Generator:
    """A torch generator for one named stream and index, on `device`."""
    import torch

    return torch.Generator(device=device).manual_seed(stream_seed(seed, stream, *index) >> 1)


def numpy_generator(seed: int, stream: str, *index: int) -> numpy.random.Generator:
    """A NumPy generator for one named stream and index."""
    return numpy.random.default_rng(stream_seed(seed, stream, *index))


def random_state(seed: int, stream: str, *index: int) -> numpy.random.RandomState:
    """A legacy NumPy generator, for samplers that were published with one."""
    return numpy.random.RandomState(stream_seed(seed, stream, *index) & 0xFFFFFFFF)
