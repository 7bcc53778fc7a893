"""How well a head does on small tasks: many episodes of fixed way and shot over one table of features.

Each image is encoded once; episode i is a function of (seed, i) alone, so that two models are compared on the same
episodes. Prototypes go through all episodes at once (`heads.prototype_episodes`), other heads one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.backbones.features import Features
from fewsight.data.fixed_episodes import EpisodeBatch
from fewsight.evaluation.intervals import Comparison, Interval, compare, share_interval
from fewsight.heads.head import Head, Support, membership_from_labels
from fewsight.heads.prototype_episodes import fixed_answers
from fewsight.heads.prototypes import Prototypes
from fewsight.heads.vectors import unit

__all__ = [
    "DrawnEpisodes",
    "EpisodeResult",
    "compare_results",
    "evaluate_episodes",
    "prototype_table",
    "without_relatives",
]

BLOCK = 256  # episodes that are drawn together


class DrawnEpisodes(Protocol):
    """What gives episodes first .. last - 1, such as `FixedEpisodes`."""

    def draw(self, first: int, last: int) -> EpisodeBatch:
        """The same for the same numbers, whatever was drawn before."""
        ...


@dataclass(frozen=True)
class EpisodeResult:
    """What came of E episodes.

    Attributes:
        accuracies: share of right answers in each, float64 [E]; NaN where no query was left.
        confusion: answers by class id (rows: true), int64 [K, K], K classes of the data.
        together: queries of a class (row) in episodes that also held the other (column), int64 [K, K].
        left_out: queries left out for each of the groupings.
    """

    accuracies: NDArray[numpy.float64]
    confusion: NDArray[numpy.int64]
    together: NDArray[numpy.int64]
    left_out: tuple[int, ...] = ()

    @property
    def accuracy(self) -> Interval:
        """Mean over episodes with its 95 % interval."""
        return share_interval(self.accuracies[~numpy.isnan(self.accuracies)])

    def recalls(self) -> NDArray[numpy.float64]:
        """Share of right answers for each class, NaN for one that was never drawn, `[K]`."""
        seen = self.confusion.sum(1)
        return numpy.divide(
            self.confusion.diagonal(), seen, out=numpy.full(len(seen), numpy.nan), where=seen > 0
        )


def evaluate_episodes(
    head: Head,
    features: Features,
    by_class: Sequence[NDArray[numpy.int64]],
    episodes: DrawnEpisodes,
    count: int,
    *,
    groups: Sequence[NDArray[numpy.int64]] = (),
) -> EpisodeResult:
    """Run episodes 0 .. count - 1.

    Args:
        head: any head; it is conditioned anew for each episode.
        features: of all images.
        by_class: rows of each class, as the episodes were made from.
        episodes: see `FixedEpisodes`.
        count: how many.
        groups: groupings of the images (places, bursts, duplicates), a number for each image; a query of which a
            member of its group is among the supports is left out.
    """
    table = prototype_table(head, features)
    accuracies = numpy.empty(count)
    confusion, together = (numpy.zeros((len(by_class), len(by_class)), dtype=numpy.int64) for _ in range(2))
    left_out = numpy.zeros(len(groups), dtype=numpy.int64)
    for first in range(0, count, BLOCK):
        last = min(count, first + BLOCK)
        batch, gone = without_relatives(episodes.draw(first, last), groups)
        left_out += gone
        if table is not None:
            assert isinstance(head, Prototypes)
            answers = _prototype_answers(head, table, batch)
        else:
            answers = numpy.stack(
                [_episode_answers(head, features, batch, place) for place in range(last - first)]
            )
        there = batch.query >= 0  # [E, K, Q]
        right = (answers == numpy.arange(answers.shape[1])[None, :, None]) & there
        asked = there.sum((1, 2))
        accuracies[first:last] = numpy.where(
            asked > 0, right.sum((1, 2)) / numpy.maximum(asked, 1), numpy.nan
        )
        _count(batch, answers, confusion, together)
    return EpisodeResult(accuracies, confusion, together, tuple(left_out.tolist()))


def without_relatives(
    batch: EpisodeBatch, groups: Sequence[NDArray[numpy.int64]]
) -> tuple[EpisodeBatch, NDArray[numpy.int64]]:
    """Episodes without the queries (-1) of whose group a photo is a support; how many for each grouping `[G]`."""
    query, gone = batch.query, numpy.zeros(len(groups), dtype=numpy.int64)
    number = numpy.arange(len(query))[:, None, None]
    for place, codes in enumerate(groups):
        several = int(codes.max(initial=0)) + 1
        shared = numpy.isin(codes[query.clip(0)] + several * number, codes[batch.support] + several * number)
        shared &= query >= 0
        gone[place] = shared.sum()
        query = numpy.where(shared, -1, query)
    return (replace(batch, query=query) if len(groups) else batch), gone


def _count(
    batch: EpisodeBatch,
    answers: NDArray[numpy.int64],
    confusion: NDArray[numpy.int64],
    together: NDArray[numpy.int64],
) -> None:
    """Add what was answered for what, and how often the one was asked beside the other."""
    there = batch.query >= 0
    true = numpy.broadcast_to(batch.classes[:, :, None], answers.shape)[there]
    told = numpy.take_along_axis(batch.classes, answers.reshape(len(answers), -1), 1)
    classes = len(confusion)
    confusion += numpy.bincount(
        true * classes + told.reshape(answers.shape)[there], minlength=classes**2
    ).reshape(classes, classes)
    pairs = batch.classes[:, :, None] * classes + batch.classes[:, None, :]
    weights = numpy.broadcast_to(there.sum(2)[:, :, None], pairs.shape)
    found = numpy.bincount(pairs.ravel(), weights.ravel(), minlength=classes**2)
    together += found.astype(numpy.int64).reshape(classes, classes)


def prototype_table(head: Head, features: Features) -> Tensor | None:
    """The vectors of all images where the head is `Prototypes`, else None."""
    if type(head) is not Prototypes:
        return None
    vectors = head.vectors(features)
    return (unit(vectors) if head.normalize else vectors).contiguous()


def _prototype_answers(head: Prototypes, table: Tensor, batch: EpisodeBatch) -> NDArray[numpy.int64]:
    answers = fixed_answers(
        table,
        torch.from_numpy(numpy.ascontiguousarray(batch.support)),
        torch.from_numpy(numpy.ascontiguousarray(batch.query)),
        metric=head.metric,
        centring=head.centring,
    )
    return answers.numpy()


@torch.no_grad()
def _episode_answers(head: Head, features: Features, batch: EpisodeBatch, place: int) -> NDArray[numpy.int64]:
    """Answers `[K, Q]` of one episode; 0 where there is no query."""
    support, query = batch.support[place], batch.query[place]
    way = numpy.repeat(numpy.arange(len(support)), support.shape[1])
    names = tuple(str(number) for number in batch.classes[place])
    chosen = Support(features.rows(support.ravel()), membership_from_labels(torch.from_numpy(way)), names)
    there = query >= 0
    answers = numpy.zeros(query.shape, dtype=numpy.int64)
    if there.any():
        answers[there] = head.condition(chosen).scores(features.rows(query[there])).argmax(1).numpy()
    return answers


def compare_results(first: EpisodeResult, second: EpisodeResult, names: tuple[str, str]) -> Comparison:
    """Paired comparison on the same episodes."""
    both = ~(numpy.isnan(first.accuracies) | numpy.isnan(second.accuracies))
    return compare(first.accuracies[both], second.accuracies[both], names=names)
