"""Episodes of any ways, shots and queries, one by one or all at once: Meta-Dataset's, and lists that others saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.backbones.features import Features
from fewsight.data.fixed_episodes import Episode
from fewsight.heads.head import Head, Support, membership_from_labels
from fewsight.heads.prototype_episodes import ragged_answers
from fewsight.heads.prototypes import Prototypes
from fewsight.protocols.episodes import EpisodeResult, prototype_table

__all__ = ["evaluate_listed_episodes", "unrelated"]

BLOCK = 64  # episodes that go through prototypes together


def evaluate_listed_episodes(
    head: Head,
    features: Features,
    episodes: Sequence[Episode],
    num_classes: int,
    *,
    groups: Sequence[NDArray[numpy.int64]] = (),
) -> EpisodeResult:
    """Run given episodes.

    Args:
        head: any head; it is conditioned anew for each episode.
        features: of all images.
        episodes: rows of `features`, with class ids below `num_classes`.
        groups: as in `protocols.episodes.evaluate_episodes`.
    """
    table = prototype_table(head, features)
    accuracies = numpy.full(len(episodes), numpy.nan)
    confusion, together = (numpy.zeros(num_classes**2, dtype=numpy.int64) for _ in range(2))
    left_out = numpy.zeros(len(groups), dtype=numpy.int64)
    for first in range(0, len(episodes), BLOCK):
        block = []
        for drawn in episodes[first : first + BLOCK]:
            kept, gone = unrelated(drawn, groups)
            left_out += gone
            block.append(kept)
        answers = _answers(head, features, block) if table is None else _all_answers(head, table, block)
        for number, (episode, told) in enumerate(zip(block, answers, strict=True), start=first):
            if len(told):
                accuracies[number] = (told == episode.query_way).mean()
            true = episode.classes[episode.query_way] * num_classes
            confusion += numpy.bincount(true + episode.classes[told], minlength=num_classes**2)
            asked = numpy.bincount(episode.query_way, minlength=len(episode.classes))
            pairs = (episode.classes[:, None] * num_classes + episode.classes[None, :]).ravel()
            numpy.add.at(together, pairs, numpy.repeat(asked, len(episode.classes)))
    square = (num_classes, num_classes)
    return EpisodeResult(
        accuracies, confusion.reshape(square), together.reshape(square), tuple(left_out.tolist())
    )


def unrelated(
    episode: Episode, groups: Sequence[NDArray[numpy.int64]]
) -> tuple[Episode, NDArray[numpy.int64]]:
    """An episode without the queries of whose group a photo is a support; how many for each grouping `[G]`."""
    gone = numpy.zeros(len(groups), dtype=numpy.int64)
    for place, codes in enumerate(groups):
        shared = numpy.isin(codes[episode.query], codes[episode.support])
        gone[place] = shared.sum()
        if gone[place]:
            episode = replace(episode, query=episode.query[~shared], query_way=episode.query_way[~shared])
    return episode, gone


def _all_answers(head: Head, table: Tensor, episodes: Sequence[Episode]) -> list[NDArray[numpy.int64]]:
    """Answers of prototypes, all episodes at once."""
    assert isinstance(head, Prototypes)
    shots = [numpy.bincount(one.support_way, minlength=len(one.classes)) for one in episodes]
    starts = numpy.concatenate([[0], numpy.cumsum(numpy.concatenate(shots))[:-1]])
    queries = [len(one.query) for one in episodes]
    found = ragged_answers(
        table,
        torch.from_numpy(numpy.concatenate([one.support for one in episodes])),
        torch.from_numpy(starts.astype(numpy.int64)),
        torch.tensor([len(one.classes) for one in episodes]),
        torch.from_numpy(numpy.concatenate([one.query for one in episodes])),
        torch.tensor(queries),
        metric=head.metric,
        centring=head.centring,
    )
    return [part.numpy() for part in found.split(queries)]


@torch.no_grad()
def _answers(head: Head, features: Features, episodes: Sequence[Episode]) -> list[NDArray[numpy.int64]]:
    """Answers of any head, one episode after the other."""
    found = []
    for one in episodes:
        names = tuple(str(number) for number in one.classes)
        membership = membership_from_labels(torch.from_numpy(one.support_way))
        if not len(one.query):
            found.append(numpy.zeros(0, dtype=numpy.int64))
            continue
        conditioned = head.condition(Support(features.rows(torch.from_numpy(one.support)), membership, names))
        found.append(conditioned.scores(features.rows(torch.from_numpy(one.query))).argmax(1).numpy())
    return found
