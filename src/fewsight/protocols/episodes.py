"""How well a head does on small tasks: many episodes of fixed way and shot over one table of features.

Each image is encoded once; episode i is a function of (seed, i) alone, so that two models are compared on the same
episodes. Prototypes go through all episodes at once (`heads.prototype_episodes`), other heads one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.backbones.features import Features
from fewsight.data.fixed_episodes import EpisodeBatch, FixedEpisodes
from fewsight.evaluation.intervals import Comparison, Interval, compare, mean_interval
from fewsight.heads.head import Head, Support, membership_from_labels
from fewsight.heads.prototype_episodes import fixed_answers
from fewsight.heads.prototypes import Prototypes
from fewsight.heads.vectors import unit

__all__ = ["EpisodeResult", "compare_results", "evaluate_episodes"]

BLOCK = 256  # episodes that are drawn together


@dataclass(frozen=True)
class EpisodeResult:
    """What came of E episodes.

    Attributes:
        accuracies: share of right answers in each, float64 [E]; NaN where no query was left.
        confusion: answers by class id (rows: true), int64 [K, K], K classes of the data.
    """

    accuracies: NDArray[numpy.float64]
    confusion: NDArray[numpy.int64]

    @property
    def accuracy(self) -> Interval:
        """Mean over episodes with its 95 % interval."""
        return mean_interval(self.accuracies[~numpy.isnan(self.accuracies)])

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
    episodes: FixedEpisodes,
    count: int,
    *,
    groups: NDArray[numpy.int64] | None = None,
) -> EpisodeResult:
    """Run episodes 0 .. count - 1.

    Args:
        head: any head; it is conditioned anew for each episode.
        features: of all images.
        by_class: rows of each class, as the episodes were made from.
        episodes: see `FixedEpisodes`.
        count: how many.
        groups: a number for each image; a query of which a group member is among the supports is left out.
    """
    table = _table(head, features)
    accuracies = numpy.empty(count)
    confusion = numpy.zeros((len(by_class), len(by_class)), dtype=numpy.int64)
    for first in range(0, count, BLOCK):
        last = min(count, first + BLOCK)
        batch = episodes.draw(first, last)
        if table is not None:
            assert isinstance(head, Prototypes)
            answers = _prototype_answers(head, table, batch)
        else:
            answers = numpy.stack(
                [_episode_answers(head, features, batch, place) for place in range(last - first)]
            )
        there = batch.query >= 0  # [E, K, Q]
        if groups is not None:
            there &= ~_shares_group(batch, groups)
        ways = numpy.arange(episodes.way)[None, :, None]
        right = (answers == ways) & there
        asked = there.sum((1, 2))
        accuracies[first:last] = numpy.where(
            asked > 0, right.sum((1, 2)) / numpy.maximum(asked, 1), numpy.nan
        )
        true = numpy.broadcast_to(batch.classes[:, :, None], answers.shape)[there]
        told = numpy.take_along_axis(batch.classes, answers.reshape(len(answers), -1), 1).reshape(
            answers.shape
        )[there]
        numpy.add.at(confusion, (true, told), 1)
    return EpisodeResult(accuracies, confusion)


def _shares_group(batch: EpisodeBatch, groups: NDArray[numpy.int64]) -> NDArray[numpy.bool_]:
    """Which queries `[E, K, Q]` have a photo of their group among the supports of the episode."""
    supports = groups[batch.support].reshape(len(batch.support), -1)  # [E, K S]
    queries = groups[batch.query.clip(0)]
    return (queries[..., None] == supports[:, None, None, :]).any(-1)


def _table(head: Head, features: Features) -> Tensor | None:
    """The vectors of all images where the head is `Prototypes`, else None."""
    if type(head) is not Prototypes:
        return None
    vectors = head.vectors(features)
    return (unit(vectors) if head.normalize else vectors).contiguous()


def _prototype_answers(head: Prototypes, table: Tensor, batch: EpisodeBatch) -> NDArray[numpy.int64]:
    answers = fixed_answers(
        table,
        torch.from_numpy(batch.support),
        torch.from_numpy(batch.query),
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
    answers[there] = head.condition(chosen).scores(features.rows(query[there])).argmax(1).numpy()
    return answers


def compare_results(first: EpisodeResult, second: EpisodeResult, names: tuple[str, str]) -> Comparison:
    """Paired comparison on the same episodes."""
    both = ~(numpy.isnan(first.accuracies) | numpy.isnan(second.accuracies))
    return compare(first.accuracies[both], second.accuracies[both], names=names)
