"""Training pairs for dense heads from stored features: number of the batch -> `Batch`.

A pair is a support photo of a class and a query that has the class or not (1-way 1-shot). As published (CST's and
iFSL's data code): the support's class is the query's own with probability one half, else another one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy
import torch
from numpy.typing import NDArray

from fewsight import distributed
from fewsight.backbones.stored_features import StoredFeatures
from fewsight.data.label_maps import LabelMaps
from fewsight.errors import InvalidInput
from fewsight.objectives.objective import Batch
from fewsight.seeding import numpy_generator

__all__ = ["Pair", "PairSource"]

VOID = 255

Integers = NDArray[numpy.int64]


class Pair(NamedTuple):
    """Rows of the two photos, and the class that is looked for."""

    support: int
    query: int
    wanted: int


@dataclass(frozen=True)
class PairSource:
    """Makes batches of pairs; batch `number` is a function of (seed, stream, number) alone.

    Attributes:
        features: of the photos.
        maps: their masks.
        masked: bool [N], whose masks may be used; the others count as photos with labels only.
        classes: class ids that pairs are about.
        rows: of photos that may be drawn.
        pairs: of a batch.
        seed, stream: of the draws.
        draw: `photos` = every (photo, class) is a query as often as any other, as published; `classes` = every class.
        guessed_supports: share of supports whose mask is held back, so that the head also learns to work without.
        split: every process takes its equal part of the pairs; else all of them take all.
    """

    features: StoredFeatures
    maps: LabelMaps
    masked: NDArray[numpy.bool_]
    classes: tuple[int, ...]
    rows: Integers
    pairs: int
    seed: int
    stream: str
    draw: Literal["photos", "classes"] = "photos"
    guessed_supports: float = 0.0
    split: bool = False
    _lines: dict[int, Integers] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.split and self.pairs % distributed.world_size():
            raise InvalidInput(
                f"{self.pairs} pairs cannot be cut into equal parts for {distributed.world_size()} processes: choose "
                f"a number of pairs that {distributed.world_size()} divides, as --set pairs={self._divisible()}."
            )
        allowed = set(self.rows.tolist())
        for number, rows in enumerate(self.features.collection.by_class()):
            if number in self.classes:
                kept = numpy.array([row for row in rows.tolist() if row in allowed], dtype=numpy.int64)
                if len(kept) >= 2:
                    self._lines[number] = kept
        if len(self._lines) < 2:
            raise InvalidInput(
                f"{len(self._lines)} of {len(self.classes)} classes have two photos; training needs at least two "
                "classes with a support and a query each. Give more photos, or other folds."
            )

    def _divisible(self) -> int:
        world = distributed.world_size()
        return -(-self.pairs // world) * world

    @property
    def _part(self) -> slice:
        """Which of the pairs of a batch this process takes."""
        size = self.pairs // distributed.world_size() if self.split else self.pairs
        first = distributed.rank() * size if self.split else 0
        return slice(first, first + size)

    @cached_property
    def _starts(self) -> Integers:
        return numpy.cumsum([0, *(len(rows) for rows in self._lines.values())])

    def drawn(self, number: int) -> tuple[Pair, ...]:
        """The pairs of batch `number`."""
        draw = numpy_generator(self.seed, self.stream, number)
        return tuple(self._pair(draw) for _ in range(self.pairs))

    def _pair(self, draw: numpy.random.Generator) -> Pair:
        able = list(self._lines)
        if self.draw == "classes":
            own = able[int(draw.integers(len(able)))]
            query = int(draw.choice(self._lines[own]))
        else:
            line = int(draw.integers(self._starts[-1]))
            place = int(numpy.searchsorted(self._starts, line, side="right")) - 1
            own = able[place]
            query = int(self._lines[own][line - self._starts[place]])
        wanted = own
        if draw.random() < 0.5:
            others = [number for number in able if number != own]
            wanted = others[int(draw.integers(len(others)))]
        supports = self._lines[wanted]
        support = int(draw.choice(supports[supports != query]))
        return Pair(support, query, wanted)

    def __call__(self, number: int) -> Batch:
        pairs, part = self.drawn(number), self._part
        draw = numpy_generator(self.seed, f"{self.stream} held back", number)
        held_back = (draw.random(len(pairs)) < self.guessed_supports)[part]
        pairs = pairs[part]
        rows = [pair.support for pair in pairs] + [pair.query for pair in pairs]
        present = [True] * len(pairs) + [self.present(pair) for pair in pairs]
        return Batch(
            features=self.features.rows(rows),
            labels=torch.tensor(present)[:, None],
            masks=self._masks(pairs, held_back),
            roles=torch.tensor([0] * len(pairs) + [1] * len(pairs)),
            index=torch.tensor(rows),
            step=number,
            seed=self.seed,
        )

    def present(self, pair: Pair) -> bool:
        """Whether the query has the class: by its mask where that may be used, else by its labels."""
        if self.masked[pair.query]:
            return self.maps.shows(pair.query, pair.wanted)
        return pair.wanted in self.features.collection.labels_of(pair.query).tolist()

    def _masks(self, pairs: tuple[Pair, ...], held_back: NDArray[numpy.bool_]) -> torch.Tensor | None:
        """[2B, side, side]: 1 = the class, 0, and 255 throughout for a photo whose mask may not be used."""
        known = [
            bool(self.masked[p.support]) and not hidden for p, hidden in zip(pairs, held_back, strict=True)
        ]
        known += [bool(self.masked[pair.query]) for pair in pairs]
        if not any(known):
            return None
        rows = [pair.support for pair in pairs] + [pair.query for pair in pairs]
        masks = numpy.full((len(rows), self.maps.side, self.maps.side), VOID, dtype=numpy.uint8)
        for place, (row, pair) in enumerate(zip(rows, pairs * 2, strict=True)):
            if known[place]:
                masks[place] = self.maps.one(row, pair.wanted)
        # A small object can vanish in the resampling; such a support is shown without its mask.
        for place in range(len(pairs)):
            if known[place] and not (masks[place] == 1).any():
                masks[place] = VOID
        return torch.from_numpy(masks)
