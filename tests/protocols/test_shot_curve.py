"""The curve over shots: nested supports, the same queries at each step, and nothing related on both sides."""

from __future__ import annotations

import numpy
import pytest
import torch

from fewsight.backbones.features import Features
from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.errors import InvalidInput
from fewsight.heads.prototypes import Prototypes
from fewsight.protocols.episodes import evaluate_episodes
from fewsight.protocols.shot_curve import curve_shots, shot_curve

SIZES = (30, 30, 16, 26)


def data() -> tuple[Features, list[numpy.ndarray]]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    vectors = torch.randn(len(SIZES), 8, generator=generator)[labels]
    vectors = vectors + 2 * torch.randn(len(labels), 8, generator=generator)
    return Features(cls=vectors), [numpy.flatnonzero(labels.numpy() == k) for k in range(len(SIZES))]


def test_more_supports_help_and_the_last_step_is_the_plain_episode() -> None:
    features, by_class = data()
    shots = curve_shots(SIZES, way=3)
    assert shots == (1, 2, 5, 10, 20)
    found = shot_curve(Prototypes(), features, by_class, shots, 80, way=3, query=6, seed=4)
    means = [each.accuracy.mean for each in found]
    assert means[0] < means[2] < means[-1]
    asked = [each.confusion.sum(1).tolist() for each in found]
    assert all(each == asked[0] for each in asked)  # the same queries
    assert asked[0][2] == 0  # 16 photos are too few for 20 shots and five queries
    able = [rows if len(rows) >= 25 else rows[:0] for rows in by_class]
    episodes = FixedEpisodes(able, 3, 20, 6, seed=4, stream="shot curve")
    plain = evaluate_episodes(Prototypes(), features, by_class, episodes, 80)
    assert (plain.accuracies == found[-1].accuracies).all()


def test_queries_related_to_any_support_are_left_out_at_every_step() -> None:
    features, by_class = data()
    groups = [numpy.arange(sum(SIZES)) // 4]  # four neighbours each
    found = shot_curve(Prototypes(), features, by_class, (1, 10), 40, way=3, query=6, groups=groups)
    assert found[0].confusion.sum() == found[1].confusion.sum() < 40 * 18


def test_too_few_photos() -> None:
    features, by_class = data()
    assert curve_shots((3, 4, 2), way=2) == ()
    with pytest.raises(InvalidInput, match="50-shot"):
        shot_curve(Prototypes(), features, by_class, (1, 50), 5, way=3)
