"""Meta-Dataset: the episodes of a source as published, and a row beside those of the leaderboard, with ranks.

Eleni Triantafillou et al., "Meta-Dataset", ICLR 2020 (arXiv 1903.03096), section 3, and the leaderboard of its
repository. 600 episodes a source from its test classes; the figure is the mean accuracy with 1.96 standard errors
(population deviation). Omniglot's classes come from one alphabet, ImageNet's from one node of WordNet.

Differs from the published evaluation: every episode shuffles the photos of a class anew (`data.variable_episodes`);
photos come as the backbone's own transform makes them, not squashed to 84, 126 or 224 pixels.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from fewsight.data.episodes import MIN_WAYS, class_hierarchy
from fewsight.data.splits import META_DATASET_SOURCES, imagenet_hierarchy, omniglot_alphabets
from fewsight.data.variable_episodes import VariableEpisodes
from fewsight.evaluation.episodes import leaderboard_ranks

__all__ = ["Figure", "RankedRow", "figure_of", "meta_dataset_episodes", "published_rows", "ranked"]

MAX_LEAVES = 392  # of an ImageNet node


class Figure(NamedTuple):
    """Mean accuracy and half of its 95 % interval, in percent."""

    mean: float
    half_width: float


class PublishedRow(NamedTuple):
    """A method as published: `average_rank` over all sources, None outside the leaderboard."""

    trained_on: str
    method: str
    average_rank: float | None
    figures: dict[str, Figure]


class RankedRow(NamedTuple):
    """A row with its average rank over the sources compared; None outside the leaderboard."""

    method: str
    average_rank: float | None
    figures: dict[str, Figure]
    ours: bool


def meta_dataset_episodes(
    source: str, by_class: Sequence[NDArray[numpy.int64]], *, seed: int = 0
) -> VariableEpisodes:
    """The test episodes of a source; `by_class` in official order.

    Raises:
        InvalidInput: there are too few classes or photos.
    """
    superclasses = list(omniglot_alphabets("test").values()) if source == "omniglot" else None
    spanned = _spanned_classes() if source == "ilsvrc_2012" else None
    return VariableEpisodes(
        by_class,
        seed=seed,
        stream=f"meta-dataset {source}",
        classes_per_superclass=superclasses,
        spanned_classes=spanned,
    )


@lru_cache(maxsize=1)
def _spanned_classes() -> list[NDArray[numpy.int64]]:
    """For each eligible node of the test graph the classes that it spans, by their place in the list of classes."""
    graph = imagenet_hierarchy("test")
    place = numpy.full(len(graph.nodes), -1, dtype=numpy.int64)
    place[graph.leaves] = numpy.arange(len(graph.leaves))
    found = class_hierarchy(graph.edges, graph.leaves, min_ways=MIN_WAYS, max_leaves=MAX_LEAVES)
    return [place[leaves] for leaves in found.spanned_classes()]


def figure_of(accuracies: NDArray[numpy.float64]) -> Figure:
    """As the leaderboard gives it.

    >>> round(figure_of(numpy.array([0.5, 0.7])).half_width, 6)
    13.859293
    """
    half = 1.96 * float(accuracies.std()) / math.sqrt(len(accuracies))
    return Figure(100 * float(accuracies.mean()), 100 * half)


@lru_cache(maxsize=1)
def published_rows() -> tuple[PublishedRow, ...]:
    """The leaderboard, and P>M>F (Hu et al. 2022), which is not in it."""
    name = "meta_dataset_published.csv"
    text = files("fewsight.protocols").joinpath(name).read_text(encoding="utf-8")
    return tuple(
        PublishedRow(
            row["trained_on"],
            row["method"],
            float(row["average_rank"]) if row["average_rank"] else None,
            {
                source: Figure(float(row[source]), float(row[f"{source}_half"]))
                for source in META_DATASET_SOURCES
            },
        )
        for row in csv.DictReader(io.StringIO(text))
    )


def ranked(name: str, figures: Mapping[str, Figure], trained_on: str) -> list[RankedRow]:
    """Our row among the published ones, best average rank first; rows outside the leaderboard last, without a rank.

    Args:
        name: of our row.
        figures: of the sources that were scored; ranks are over these alone.
        trained_on: `ImageNet` or `eight sources`: which published rows.
    """
    rows = [row for row in published_rows() if row.trained_on == trained_on]
    inside = [row for row in rows if row.average_rank is not None]
    entries = [(name, dict(figures)), *((row.method, row.figures) for row in inside)]
    table = numpy.array([[each[source] for source in figures] for _, each in entries])  # [M, D, 2]
    ranks = leaderboard_ranks(table[:, :, 0], table[:, :, 1]).average_rank.tolist()
    found = [
        RankedRow(method, rank, each, number == 0)
        for number, ((method, each), rank) in enumerate(zip(entries, ranks, strict=True))
    ]
    found.sort(key=lambda row: (row.average_rank, not row.ours))
    return found + [
        RankedRow(row.method, None, row.figures, False) for row in rows if row.average_rank is None
    ]
