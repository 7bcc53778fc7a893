"""Random draws for many episodes at once, each a function of (key, episode) alone.

A counter-based generator (splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA
2014) gives word j of episode i without any of the others, so that a thousand episodes are drawn in one sweep and
episode 17 is still the same by itself. Draws without replacement are the first steps of a Fisher-Yates shuffle whose
array is never built.
"""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

__all__ = ["distinct", "words"]

Words = NDArray[numpy.uint64]
_GAMMA = numpy.uint64(0x9E3779B97F4A7C15)
_MIX = (numpy.uint64(0xBF58476D1CE4E5B9), numpy.uint64(0x94D049BB133111EB))


def _mixed(values: Words) -> Words:
    values = (values ^ (values >> numpy.uint64(30))) * _MIX[0]
    values = (values ^ (values >> numpy.uint64(27))) * _MIX[1]
    return values ^ (values >> numpy.uint64(31))


def words(key: int, episodes: NDArray[numpy.int64], count: int) -> Words:
    """`count` random 64-bit words for each episode, `[E, count]`.

    >>> bool((words(3, numpy.array([5, 6]), 4)[1] == words(3, numpy.array([6]), 9)[0, :4]).all())
    True
    """
    with numpy.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        start = _mixed(numpy.uint64(key) + (episodes.astype(numpy.uint64) + numpy.uint64(1)) * _GAMMA)
        steps = (numpy.arange(count, dtype=numpy.uint64) + numpy.uint64(1)) * _GAMMA
        return _mixed(start[:, None] + steps)


def distinct(random: Words, sizes: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
    """The first m entries of a random permutation of 0 .. size - 1, for each row.

    Args:
        random: `[R, m]` words.
        sizes: `[R]`; where a size is below m, the entries from `size` on are -1.

    Returns:
        int64 `[R, m]`. Any ordered choice is as likely as any other, up to size / 2**32.
    """
    rows, count = random.shape
    drawn = numpy.full((rows, count), -1, dtype=numpy.int64)
    swapped = numpy.full(
        (rows, count), -1, dtype=numpy.int64
    )  # where each step put the entry that it displaced
    held = numpy.zeros((rows, count), dtype=numpy.int64)
    high = random >> numpy.uint64(32)
    for step in range(count):
        left = (sizes - step).clip(0)
        offset = ((high[:, step] * left.astype(numpy.uint64)) >> numpy.uint64(32)).astype(numpy.int64)
        place = step + offset
        value = _entry(place, swapped[:, :step], held[:, :step])
        held[:, step] = _entry(numpy.full(rows, step), swapped[:, :step], held[:, :step])
        swapped[:, step] = place
        drawn[:, step] = numpy.where(left > 0, value, -1)
    return drawn


def _entry(
    place: NDArray[numpy.int64], swapped: NDArray[numpy.int64], held: NDArray[numpy.int64]
) -> NDArray[numpy.int64]:
    """What stands at `place` of the shuffled array: the last entry put there, or the place itself."""
    steps = swapped.shape[1]
    if steps == 0:
        return place
    found = swapped == place[:, None]
    last = steps - 1 - found[:, ::-1].argmax(1)
    return numpy.where(found.any(1), held[numpy.arange(len(place)), last], place)
