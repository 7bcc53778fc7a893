"""Meta-Dataset's episodes over photos: episode i is a function of (seed, stream, i) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import ArrayLike, NDArray

from fewsight.data.episodes import MIN_WAYS, sample_episode
from fewsight.data.fixed_episodes import Episode
from fewsight.errors import InvalidInput
from fewsight.seeding import random_state

__all__ = ["VariableEpisodes"]


@dataclass(frozen=True)
class VariableEpisodes:
    """Draws classes, unequal shots and queries as Meta-Dataset does, then the photos of each class.

    Differs from the authors' pipeline: theirs goes on through each class's shuffled photos from episode to episode,
    shuffles large classes locally, and depends on the order of files; here every episode shuffles anew, so that
    number i can be drawn alone.

    Args:
        by_class: rows of each class; a class of fewer than 2 photos is an error.
        seed, stream: of the draws.
        classes_per_superclass: classes of each superclass, ids consecutive (Omniglot's alphabets).
        spanned_classes: for each eligible node of a hierarchy the classes it spans (ImageNet).
        ignore_hierarchy_probability: how often classes come from the whole set in spite of a hierarchy.

    Raises:
        InvalidInput: there are fewer than 5 classes, or a class has fewer than 2 photos.
    """

    by_class: Sequence[NDArray[numpy.int64]]
    seed: int = 0
    stream: str = "variable episode"
    classes_per_superclass: ArrayLike | None = None
    spanned_classes: Sequence[ArrayLike] | None = None
    ignore_hierarchy_probability: float = 0.0

    def __post_init__(self) -> None:
        if len(self.by_class) < MIN_WAYS:
            raise InvalidInput(
                f"by_class has {len(self.by_class)} classes; variable episodes need {MIN_WAYS} at least. Use "
                "episodes of fixed way."
            )
        smallest = min(map(len, self.by_class))
        if smallest < 2:
            raise InvalidInput(
                f"by_class has a class of {smallest} photos; leave classes of fewer than 2 out."
            )

    def __getitem__(self, index: int) -> Episode:
        """Episode `index`."""
        rng = random_state(self.seed, self.stream, index)
        classes, supports, queries = sample_episode(
            [len(rows) for rows in self.by_class],
            rng,
            classes_per_superclass=self.classes_per_superclass,
            spanned_classes=self.spanned_classes,
            ignore_hierarchy_probability=self.ignore_hierarchy_probability,
        )
        drawn = [
            self.by_class[one][rng.permutation(len(self.by_class[one]))[: shot + query]]
            for one, shot, query in zip(classes, supports, queries, strict=True)
        ]
        ways = numpy.arange(len(classes))
        return Episode(
            classes,
            numpy.concatenate([rows[:shot] for rows, shot in zip(drawn, supports, strict=True)]),
            numpy.repeat(ways, supports),
            numpy.concatenate([rows[shot:] for rows, shot in zip(drawn, supports, strict=True)]),
            numpy.repeat(ways, queries),
        )
