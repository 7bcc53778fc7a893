"""Listed episodes: the answers of the head one by one, and those of the batched form where way and shot are fixed."""

from __future__ import annotations

import numpy
import pytest
import torch

from fewsight.backbones.features import Features
from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.data.variable_episodes import VariableEpisodes
from fewsight.heads.head import Support, membership_from_labels
from fewsight.heads.neighbours import Neighbours
from fewsight.heads.prototypes import Prototypes
from fewsight.protocols.episodes import evaluate_episodes
from fewsight.protocols.listed_episodes import evaluate_listed_episodes

SIZES = (30, 14, 19, 17, 12, 26, 22)


def data() -> tuple[Features, list[numpy.ndarray]]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    vectors = torch.randn(len(SIZES), 12, generator=generator)[labels]
    vectors = vectors + 1.5 * torch.randn(len(labels), 12, generator=generator)
    return Features(cls=vectors), [numpy.flatnonzero(labels.numpy() == k) for k in range(len(SIZES))]


def test_fixed_episodes_listed_give_what_the_batched_form_gives() -> None:
    features, by_class = data()
    groups = [numpy.arange(sum(SIZES)) // 3]
    episodes = FixedEpisodes(by_class, 4, 3, 7, seed=5)
    batched = evaluate_episodes(Prototypes(), features, by_class, episodes, 90, groups=groups)
    listed = evaluate_listed_episodes(
        Prototypes(), features, [episodes[i] for i in range(90)], len(SIZES), groups=groups
    )
    numpy.testing.assert_allclose(listed.accuracies, batched.accuracies, rtol=1e-12)
    assert (listed.confusion == batched.confusion).all()
    assert (listed.together == batched.together).all()
    assert listed.left_out == batched.left_out
    assert listed.left_out[0] > 0


@pytest.mark.parametrize("head", [Prototypes(), Prototypes(metric="euclidean"), Neighbours()])
def test_variable_episodes_are_those_of_the_head(head: Prototypes | Neighbours) -> None:
    features, by_class = data()
    episodes = VariableEpisodes(by_class, seed=3)
    found = evaluate_listed_episodes(head, features, [episodes[i] for i in range(12)], len(SIZES))
    for number in range(12):
        one = episodes[number]
        support = Support(
            features.rows(torch.from_numpy(one.support)),
            membership_from_labels(torch.from_numpy(one.support_way)),
            tuple(map(str, one.classes)),
        )
        told = head.condition(support).scores(features.rows(torch.from_numpy(one.query))).argmax(1).numpy()
        assert found.accuracies[number] == pytest.approx((told == one.query_way).mean())
    assert found.confusion.sum() == sum(len(episodes[i].query) for i in range(12))


def test_an_episode_without_queries_is_not_judged() -> None:
    features, by_class = data()
    episodes = FixedEpisodes(by_class, 3, 2, 4)
    groups = [numpy.zeros(sum(SIZES), dtype=numpy.int64)]
    for head in (Prototypes(), Neighbours()):
        found = evaluate_listed_episodes(
            head, features, [episodes[0], episodes[1]], len(SIZES), groups=groups
        )
        assert numpy.isnan(found.accuracies).all()
        assert found.left_out == (24,)
    assert evaluate_listed_episodes(Prototypes(), features, [], len(SIZES)).accuracy.n == 0
