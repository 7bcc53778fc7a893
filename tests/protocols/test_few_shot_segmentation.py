"""Episodes, verdicts and paired comparisons of FS-CS."""

from __future__ import annotations

import numpy
import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.evaluation.segmentation import fewshot_segmentation_metrics
from fewsight.protocols.few_shot_segmentation import (
    Answer,
    compare_verdicts,
    decided,
    dense_episode,
    few_shot_figures,
    judge_episodes,
)
from fewsight.protocols.published_fscs import PUBLISHED, published_rows

BY_CLASS = {k: numpy.arange(10 * k, 10 * k + 10) for k in range(5)}


def test_episodes_have_distinct_supports_and_half_of_the_queries_lack_the_class():
    present = []
    for index in range(600):
        episode = dense_episode(BY_CLASS, 1, 3, seed=0, index=index)
        (supports,) = episode.supports
        assert len({*supports, episode.query}) == 4
        assert {row // 10 for row in supports} == set(episode.ways)
        present.append(episode.query // 10 in episode.ways)
    assert 0.44 < numpy.mean(present) < 0.56  # 600 coins
    assert dense_episode(BY_CLASS, 2, 1, seed=0, index=7) == dense_episode(BY_CLASS, 2, 1, seed=0, index=7)
    assert dense_episode(BY_CLASS, 2, 1, seed=0, index=7) != dense_episode(BY_CLASS, 2, 1, seed=1, index=7)


def test_special_cases():
    for index in range(50):
        where = dense_episode(BY_CLASS, 1, 1, seed=0, index=index, task="fs-s")
        assert where.ways == (where.query // 10,)

        def shown(row: int) -> frozenset[int]:
            return frozenset({row // 10, (row // 10 + 1) % 5})

        what = dense_episode(BY_CLASS, 3, 1, seed=0, index=index, task="fs-c", shown=shown)
        assert len(shown(what.query) & set(what.ways)) == 1
    two = {0: BY_CLASS[0], 1: BY_CLASS[1]}
    with pytest.raises(InvalidInput, match="1 absent ones"):
        dense_episode(two, 2, 1, seed=0, index=0, task="fs-c", shown=lambda _: frozenset({0, 1}))
    with pytest.raises(InvalidInput, match="5 classes have more than 1 photos; 6-way"):
        dense_episode(BY_CLASS, 6, 1, seed=0, index=0)


def drawn(seed: int, right: float) -> tuple[list[Answer], list[torch.Tensor], list[tuple[int, int]]]:
    generator = torch.Generator().manual_seed(seed)
    answers, truths, ways = [], [], []
    for index in range(40):
        truth = torch.randint(0, 3, (6, 7), generator=generator)
        truth[0, 0] = 255
        guess = torch.where(torch.rand(6, 7, generator=generator) < right, truth % 255, 0)
        present = torch.tensor([bool((guess == n).any()) for n in (1, 2)])
        answers.append(Answer(present, guess, present.double()))
        truths.append(truth)
        ways.append((index % 3, 3))
    return answers, truths, ways


@pytest.mark.parametrize("void", ["strict", "published"])
def test_figures_are_those_of_the_meter(void):
    answers, truths, ways = drawn(0, 0.7)
    verdicts = judge_episodes(answers, truths, ways, void=void)
    figures = few_shot_figures(verdicts, [0, 1, 2, 3, 4])
    meter = fewshot_segmentation_metrics(
        [a.labels for a in answers], truths, torch.tensor(ways), classes=[0, 1, 2, 3, 4], void=void
    )
    assert figures.miou.mean == meter.miou
    assert figures.fb_iou.mean == meter.fb_iou
    assert figures.miou.low < figures.miou.mean < figures.miou.high
    assert figures.iou[4] == 0  # never drawn, and still in the mean
    assert figures.exact_ratio.mean == 1


def test_a_paired_comparison_sees_a_difference_and_none():
    better, truths, ways = drawn(0, 0.9)
    worse = drawn(0, 0.4)[0]
    first, second = (judge_episodes(each, truths, ways) for each in (better, worse))
    found = compare_verdicts(first, second, [0, 1, 2, 3], ("ours", "theirs"))
    assert found["mIoU"].difference.low > 0
    assert "ours is better than theirs" in found["mIoU"].sentence
    same = compare_verdicts(first, first, [0, 1, 2, 3], ("ours", "ours again"))
    assert "No difference shown" in same["mIoU"].sentence
    with pytest.raises(InvalidInput, match="different episodes"):
        compare_verdicts(first, judge_episodes(worse[:10], truths[:10], ways[:10]), [0, 1, 2, 3], ("a", "b"))


def test_the_published_rule():
    foreground = torch.tensor([[[0.5, 0.4]], [[0.6, 0.3]]])
    found = decided(torch.tensor([0.5, 0.51]), foreground)
    assert found.present.tolist() == [False, True]
    assert found.labels.tolist() == [[2, 0]]
    cleared = decided(torch.tensor([0.9, 0.2]), foreground, consistent=True)
    assert cleared.labels.tolist() == [[1, 0]]


def test_published_rows():
    rows = list(published_rows("pascal-5i", "fs-cs", 1, 1))
    told = {(row.method, row.supervision): (row.exact_ratio, row.miou) for row in rows}
    assert told["CST", "image"] == (79.9, 33.2)
    assert told["CST", "pixel"] == (85.7, 55.5)
    assert "mIoU 33.2 %" in next(row for row in rows if row.supervision == "image").sentence()
    assert {row.benchmark for row in PUBLISHED} == {"pascal-5i", "coco-20i"}
