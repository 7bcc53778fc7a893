"""Meta-Dataset: hierarchies of the sources, the published table, and our row among it."""

from __future__ import annotations

import itertools

import numpy
import pytest

from fewsight.data.splits import META_DATASET_SOURCES, meta_dataset_images, omniglot_alphabets
from fewsight.protocols.meta_dataset import Figure, figure_of, meta_dataset_episodes, published_rows, ranked


def rows_of(counts: list[int]) -> list[numpy.ndarray]:
    starts = numpy.concatenate([[0], numpy.cumsum(counts)])
    return [numpy.arange(a, b) for a, b in itertools.pairwise(starts)]


def test_omniglot_episodes_stay_in_one_alphabet() -> None:
    alphabets = numpy.repeat(numpy.arange(20), list(omniglot_alphabets("test").values()))
    episodes = meta_dataset_episodes("omniglot", rows_of([20] * 659), seed=1)
    for number in range(20):
        one = episodes[number]
        assert len(set(alphabets[one.classes])) == 1
        assert 5 <= len(one.classes) <= 50
        assert (numpy.bincount(one.query_way) == 10).all()
        assert not set(one.support) & set(one.query)


def test_imagenet_episodes_are_the_leaves_of_a_node() -> None:
    counts = list(meta_dataset_images("ilsvrc_2012", "test").values())
    episodes = meta_dataset_episodes("ilsvrc_2012", rows_of(counts))
    seen = {tuple(sorted(episodes[number].classes.tolist())) for number in range(60)}
    assert all(5 <= len(classes) <= 50 for classes in seen)
    assert (
        len({classes for classes in seen if len(classes) < 50}) <= 14
    )  # 15 eligible nodes, one spans more than 50
    assert max(max(classes) for classes in seen) < 130


@pytest.mark.parametrize("trained_on", ["ImageNet", "eight sources"])
def test_the_leaderboard_comes_out_as_published(trained_on: str) -> None:
    rows = [row for row in published_rows() if row.trained_on == trained_on]
    assert all(tuple(row.figures) == META_DATASET_SOURCES for row in rows)
    nobody = {source: Figure(0.0, 0.0) for source in META_DATASET_SOURCES}  # last everywhere: moves no one
    found = {row.method: row.average_rank for row in ranked("nobody", nobody, trained_on)}
    for row in rows:
        if row.average_rank is None:
            assert found[row.method] is None
        else:
            assert found[row.method] == pytest.approx(row.average_rank, abs=0.006)
    assert found["nobody"] == len([row for row in rows if row.average_rank is not None]) + 1


def test_our_row_has_its_place() -> None:
    best = ranked("ours", {"omniglot": Figure(99.0, 0.1)}, "ImageNet")
    assert best[0].ours
    assert best[0].average_rank == 1
    assert best[-1].method == "P>M>F"
    assert best[-1].average_rank is None
    tied = ranked("ours", {"omniglot": Figure(84.0, 1.0)}, "ImageNet")
    assert {row.method: row.average_rank for row in tied}[
        "DIPA"
    ] == 1.5  # 82.58 and below are out of its reach


def test_half_width_is_the_published_one() -> None:
    accuracies = numpy.random.default_rng(0).uniform(0.2, 0.9, 600)
    mean, half = figure_of(accuracies)
    assert mean == pytest.approx(100 * accuracies.mean())
    assert half == pytest.approx(196 * accuracies.std() / 600**0.5)
