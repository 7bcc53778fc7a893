"""Fixed episodes: sizes, no overlap, a function of the index alone, few photos, errors."""

from __future__ import annotations

import numpy
import pytest

from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.errors import InvalidInput

BY_CLASS = [
    numpy.arange(start, start + count) for start, count in ((0, 20), (20, 3), (23, 1), (24, 9), (33, 20))
]


def test_sizes_and_no_overlap() -> None:
    episodes = FixedEpisodes(BY_CLASS, way=3, shot=2, query=5)
    for index in range(50):
        episode = episodes[index]
        assert len(episode.support) == 6
        assert not set(episode.support) & set(episode.query)
        assert len(set(episode.query)) == len(episode.query)
        for way, number in enumerate(episode.classes):
            assert set(episode.support[episode.support_way == way]) <= set(BY_CLASS[number])
            expected = min(5, len(BY_CLASS[number]) - 2)
            assert (episode.query_way == way).sum() == expected


def test_episode_is_a_function_of_seed_and_index() -> None:
    first, second = (FixedEpisodes(BY_CLASS, way=3, seed=1) for _ in range(2))
    for index in (9, 0, 9, 4):
        assert (first[index].support == second[index].support).all()
    assert any(
        (first[i].support != FixedEpisodes(BY_CLASS, way=3, seed=2)[i].support).any() for i in range(5)
    )
    assert any((first[i].classes != first[i + 1].classes).any() for i in range(5))


def test_every_class_and_photo_is_drawn_about_equally_often() -> None:
    episodes = FixedEpisodes(
        [numpy.arange(10), numpy.arange(10, 20), numpy.arange(20, 30)], way=2, shot=1, query=1
    )
    support = numpy.bincount(numpy.concatenate([episodes[i].support for i in range(3000)]), minlength=30)
    # 6000 draws over 30 photos: 200 each, standard deviation 13.9; five of them
    assert (abs(support - 200) < 70).all()


def test_too_few_photos_are_named() -> None:
    with pytest.raises(InvalidInput, match="4 of 5"):
        FixedEpisodes(BY_CLASS, way=5)
    with pytest.raises(InvalidInput, match="shot is 0"):
        FixedEpisodes(BY_CLASS, way=2, shot=0)
