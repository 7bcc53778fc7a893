"""Meta-Dataset's episodes over photos: alone by number, disjoint, of the right classes; errors."""

import numpy
import pytest

from fewsight.data.episodes import sample_episode
from fewsight.data.variable_episodes import VariableEpisodes
from fewsight.errors import InvalidInput
from fewsight.seeding import random_state


def classes(count=12):
    sizes = numpy.random.default_rng(0).integers(2, 60, count)
    order = numpy.random.default_rng(1).permutation(sizes.sum())
    return numpy.split(order, numpy.cumsum(sizes)[:-1])


def test_an_episode_is_a_function_of_seed_and_number():
    first, again = VariableEpisodes(classes()), VariableEpisodes(classes())
    again[3]
    for one, other in zip(vars(first[7]).values(), vars(again[7]).values(), strict=True):
        assert numpy.array_equal(one, other)
    assert not numpy.array_equal(first[7].support, VariableEpisodes(classes(), seed=1)[7].support)
    assert not numpy.array_equal(first[7].support, first[8].support)


def test_photos_are_distinct_and_of_their_class_in_the_sampled_numbers():
    by_class = classes()
    episodes = VariableEpisodes(by_class)
    for index in range(30):
        episode = episodes[index]
        rows = numpy.concatenate([episode.support, episode.query])
        assert len(set(rows.tolist())) == len(rows)
        for way, one in enumerate(episode.classes):
            assert numpy.isin(episode.support[episode.support_way == way], by_class[one]).all()
            assert numpy.isin(episode.query[episode.query_way == way], by_class[one]).all()
        rng = random_state(0, "variable episode", index)
        _, supports, queries = sample_episode([len(rows) for rows in by_class], rng)
        assert numpy.bincount(episode.support_way).tolist() == supports.tolist()
        assert numpy.bincount(episode.query_way).tolist() == queries.tolist()


def test_hierarchies_are_passed_on():
    episodes = VariableEpisodes(classes(), classes_per_superclass=[5, 7])
    assert all(len({one < 5 for one in episodes[index].classes}) == 1 for index in range(20))
    spanned = VariableEpisodes(classes(), spanned_classes=[[1, 2, 3]])
    assert sorted(spanned[0].classes.tolist()) == [1, 2, 3]


def test_errors():
    with pytest.raises(InvalidInput, match="4 classes"):
        VariableEpisodes(classes()[:4])
    with pytest.raises(InvalidInput, match="1 photos"):
        VariableEpisodes([*classes(), numpy.array([999])])
