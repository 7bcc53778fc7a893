"""Episodes: the batched answers are those of the head, one episode at a time; results add up."""

from __future__ import annotations

import numpy
import pytest
import torch

from fewsight.backbones.features import Features
from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.heads.head import Support, membership_from_labels
from fewsight.heads.neighbours import Neighbours
from fewsight.heads.prototype_episodes import ragged_answers
from fewsight.heads.prototypes import Prototypes
from fewsight.protocols.episodes import compare_results, evaluate_episodes

SIZES = (20, 4, 9, 17, 2, 30)


def data() -> tuple[Features, list[numpy.ndarray]]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    centres = torch.randn(len(SIZES), 12, generator=generator)
    vectors = centres[labels] + 1.5 * torch.randn(len(labels), 12, generator=generator)
    return Features(cls=vectors), [numpy.flatnonzero(labels.numpy() == k) for k in range(len(SIZES))]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("centring", [0.0, 0.7])
@pytest.mark.parametrize("shot", [1, 3])
def test_all_at_once_equals_one_by_one(metric: str, centring: float, shot: int) -> None:
    features, by_class = data()
    episodes = FixedEpisodes(by_class, way=4, shot=shot, query=6, seed=3)
    head = Prototypes(metric=metric, centring=centring)  # type: ignore[arg-type]
    result = evaluate_episodes(head, features, by_class, episodes, 40)
    for number in range(40):
        episode = episodes[number]
        support = Support(
            features.rows(episode.support),
            membership_from_labels(torch.from_numpy(episode.support_way)),
            tuple("abcd"),
        )
        answers = head.condition(support).scores(features.rows(episode.query)).argmax(1).numpy()
        assert result.accuracies[number] == pytest.approx((answers == episode.query_way).mean())
    assert result.confusion.sum() == sum(len(episodes[number].query) for number in range(40))


def test_any_other_head_goes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    features, by_class = data()
    episodes = FixedEpisodes(by_class, way=3, shot=2, query=5)
    one = evaluate_episodes(Neighbours(), features, by_class, episodes, 30)
    two = evaluate_episodes(Prototypes(), features, by_class, episodes, 30)
    assert 0.5 < one.accuracy.mean < 1
    comparison = compare_results(two, one, ("prototypes", "neighbours"))
    assert comparison.difference.mean == pytest.approx(two.accuracy.mean - one.accuracy.mean)
    recalls = one.recalls()
    assert numpy.nanmax(recalls) <= 1
    assert not numpy.isnan(recalls).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_ragged_answers_equal_the_head(metric: str) -> None:
    features, by_class = data()
    head = Prototypes(metric=metric, centring=0.5)  # type: ignore[arg-type]
    table = features.cls / features.cls.norm(dim=1, keepdim=True)
    generator = numpy.random.default_rng(1)
    support, starts, ways, query, queries, expected = [], [], [], [], [], []
    for number in range(6):
        classes = generator.permutation(len(SIZES))[: 2 + number % 4]
        rows = [by_class[k][: 1 + (number + k) % (len(by_class[k]) - 1)] for k in classes]
        for part in rows:
            starts.append(sum(map(len, support)))
            support.append(part)
        asked = numpy.concatenate([by_class[k][-1:] for k in classes])
        ways.append(len(classes))
        queries.append(len(asked))
        query.append(asked)
        labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(part) for part in rows]))
        chosen = Support(
            features.rows(numpy.concatenate(rows)), membership_from_labels(labels), tuple(map(str, classes))
        )
        expected.append(head.condition(chosen).scores(features.rows(asked)).argmax(1))
    long = lambda values: torch.as_tensor(numpy.asarray(values), dtype=torch.long)  # noqa: E731
    answers = ragged_answers(
        table, long(numpy.concatenate(support)), long(starts), long(ways),
        long(numpy.concatenate(query)), long(queries),
        metric=head.metric, centring=head.centring,
    )  # fmt: skip
    assert (answers == torch.cat(expected)).all()


def test_relatives_are_left_out_and_counted() -> None:
    features, by_class = data()
    episodes = FixedEpisodes(by_class, way=4, shot=2, query=6, seed=1)
    rows = sum(SIZES)
    neighbours, alone = numpy.arange(rows) // 3, numpy.arange(rows)
    result = evaluate_episodes(Prototypes(), features, by_class, episodes, 30, groups=[alone, neighbours])
    expected = 0
    for number in range(30):
        episode = episodes[number]
        expected += int(numpy.isin(neighbours[episode.query], neighbours[episode.support]).sum())
    assert result.left_out == (0, expected)
    assert expected > 0
    asked = sum(len(episodes[number].query) for number in range(30))
    assert result.confusion.sum() == asked - expected
    nothing = evaluate_episodes(Prototypes(), features, by_class, episodes, 5, groups=[alone * 0])
    assert nothing.accuracy.n == 0


def test_together_counts_the_questions_where_both_classes_were_there() -> None:
    features, by_class = data()
    episodes = FixedEpisodes(by_class, way=3, shot=1, query=4, seed=2)
    result = evaluate_episodes(Neighbours(), features, by_class, episodes, 20)
    expected = numpy.zeros_like(result.together)
    for number in range(20):
        episode = episodes[number]
        for way, of in enumerate(episode.classes):
            for other in episode.classes:
                expected[of, other] += (episode.query_way == way).sum()
    assert (result.together == expected).all()
    assert (result.together.diagonal() == result.confusion.sum(1)).all()
    assert (result.confusion <= result.together).all()
