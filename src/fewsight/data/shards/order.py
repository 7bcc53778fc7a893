"""The order of photos in shards: a function of (seed, epoch) that reads along the shards and mixes all the same.

The shards are put in a random order, one behind the other, and that stream is cut into equal lanes. A batch takes as
many photos from each lane, and within a lane the photos of a window are shuffled. So

- any batch of any epoch can be named without the ones before: a killed run goes on exactly where it stood;
- ranks take disjoint parts of a batch, and with them their own lanes: each reads along its own shards;
- shards of unequal size are of no consequence: lanes are cut by photos, and no rank runs dry before another;
- the order does not depend on the number of ranks or workers.

Letters: N photos that take part, S shards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy
from numpy.typing import NDArray

from fewsight.errors import InvalidInput
from fewsight.seeding import numpy_generator

__all__ = ["ShardOrder", "kept_below"]

MOST_LANES = 64
SHUFFLED = 4096  # photos of all lanes that are shuffled at a time


@dataclass(frozen=True, eq=False)
class ShardOrder:
    """The order of the photos that take part.

    Attributes:
        starts: row of the first photo of each shard and the number of all, int64 `[S + 1]`.
        batch: photos of a batch over all ranks; the number of lanes is its largest divisor up to 64.
        left_out: rows that do not take part, ascending.
        shuffled: photos of all lanes that are shuffled at a time.
    """

    starts: NDArray[numpy.int64]
    batch: int
    left_out: NDArray[numpy.int64] = field(default_factory=lambda: numpy.zeros(0, numpy.int64))
    shuffled: int = SHUFFLED

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= max(1, len(self)):
            raise InvalidInput(
                f"batch is {self.batch} of {len(self)} photos; expected 1 or more, not more than all."
            )

    def __len__(self) -> int:
        return int(self.starts[-1]) - len(self.left_out)

    @property
    def places(self) -> int:
        """How many photos an epoch sees: those of whole batches."""
        return len(self) // self.batch * self.batch

    @property
    def lanes(self) -> int:
        """Places of the stream that a batch is read from."""
        return max(n for n in range(1, min(MOST_LANES, self.batch) + 1) if self.batch % n == 0)

    def rows(self, epoch: int, first: int, last: int, seed: int) -> NDArray[numpy.int64]:
        """Rows of the photos at places `first .. last - 1` of an epoch, int64.

        Raises:
            InvalidInput: an epoch has no such places.
        """
        if not 0 <= first <= last <= self.places:
            raise InvalidInput(f"places {first} to {last} are not among the {self.places} of an epoch.")
        places = numpy.arange(first, last)
        share = self.batch // self.lanes
        number, within = numpy.divmod(places, self.batch)
        lane, step = within // share, number * share + within % share
        return self._rows_of(self._shuffled(lane, step, epoch, seed), epoch, seed)

    def _shuffled(
        self, lane: NDArray[numpy.int64], step: NDArray[numpy.int64], epoch: int, seed: int
    ) -> NDArray[numpy.int64]:
        """Places in the stream of the photos that each lane gives at each step."""
        length, window = len(self) // self.lanes, max(1, self.shuffled // self.lanes)
        found = numpy.empty_like(step)
        for place, (one, at) in enumerate(zip(lane.tolist(), step.tolist(), strict=True)):
            block = at // window
            count = min(window, length - block * window)
            order = _window(count, seed, epoch, one, block)
            found[place] = one * length + block * window + order[at % window]
        return found

    def _rows_of(self, places: NDArray[numpy.int64], epoch: int, seed: int) -> NDArray[numpy.int64]:
        """Rows at places of the stream, which holds shard after shard in the order of this epoch."""
        begins = self.starts - numpy.searchsorted(self.left_out, self.starts)  # counting those that take part
        shards = _shard_order(len(self.starts) - 1, epoch, seed)
        ends = numpy.cumsum(numpy.diff(begins)[shards])
        number = numpy.searchsorted(ends, places, "right")
        before = numpy.concatenate([[0], ends])[number]
        return kept_below(begins[shards[number]] + places - before, self.left_out)


def kept_below(numbers: NDArray[numpy.int64], left_out: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
    """Rows of the photos with these numbers among those that are not left out (ascending rows).

    >>> kept_below(numpy.arange(4), numpy.array([0, 2, 3])).tolist()
    [1, 4, 5, 6]
    """
    return numbers + numpy.searchsorted(left_out - numpy.arange(len(left_out)), numbers, "right")


@lru_cache(maxsize=4)
def _shard_order(count: int, epoch: int, seed: int) -> NDArray[numpy.int64]:
    return numpy_generator(seed, "order of shards", epoch).permutation(count)


@lru_cache(maxsize=4 * MOST_LANES)
def _window(count: int, seed: int, epoch: int, lane: int, block: int) -> NDArray[numpy.int64]:
    return numpy_generator(seed, "shuffle in shards", epoch, lane, block).permutation(count)
