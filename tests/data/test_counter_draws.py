"""Counter-based draws: a function of (key, episode), without repetition, every ordered choice equally likely."""

from __future__ import annotations

from itertools import permutations

import numpy
import pytest

from fewsight.data.counter_draws import distinct, words


def test_words_depend_on_key_and_episode_alone() -> None:
    many = words(11, numpy.arange(100), 6)
    assert (words(11, numpy.array([42]), 3)[0] == many[42, :3]).all()
    assert len(numpy.unique(many)) == many.size
    assert (words(12, numpy.arange(100), 6) != many).all()


def test_bits_are_fair() -> None:
    bits = numpy.unpackbits(words(0, numpy.arange(4000), 4).view(numpy.uint8))
    # 1,024,000 fair bits: standard deviation of the mean 0.0005; five of them
    assert abs(bits.mean() - 0.5) < 0.0025


@pytest.mark.parametrize(("size", "count"), [(5, 5), (9, 4), (3, 6), (1, 1), (1000, 20)])
def test_no_entry_twice(size: int, count: int) -> None:
    drawn = distinct(words(1, numpy.arange(300), count), numpy.full(300, size))
    for row in drawn:
        held = row[row >= 0]
        assert len(held) == min(size, count)
        assert len(set(held.tolist())) == len(held)
        assert held.max() < size


def test_every_ordered_choice_is_equally_likely() -> None:
    drawn = distinct(words(2, numpy.arange(60_000), 3), numpy.full(60_000, 4))
    choices = list(permutations(range(4), 3))
    counts = numpy.array([(drawn == choice).all(1).sum() for choice in choices])
    assert counts.sum() == 60_000
    # 2500 expected of each of 24, standard deviation 49; five of them
    assert abs(counts - 2500).max() < 245


def test_first_draws_do_not_depend_on_how_many_follow() -> None:
    random = words(3, numpy.arange(50), 8)
    assert (distinct(random, numpy.full(50, 30))[:, :3] == distinct(random[:, :3], numpy.full(50, 30))).all()
