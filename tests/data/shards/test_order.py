import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewsight.data.shards.order import ShardOrder, kept_below
from fewsight.errors import InvalidInput


def _order(counts, batch, left_out=(), **others):
    starts = numpy.concatenate([[0], numpy.cumsum(counts)]).astype(numpy.int64)
    return ShardOrder(starts, batch, numpy.array(sorted(left_out), numpy.int64), **others)


def _epoch(order, epoch=0, seed=0):
    return order.rows(epoch, 0, order.places, seed)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(lambda c: sum(c) > 3),
    batch=st.integers(1, 24),
    out=st.integers(0, 2),
    shuffled=st.integers(1, 64),
    data=st.data(),
)
def test_an_epoch_sees_each_photo_at_most_once_and_nothing_left_out(counts, batch, out, shuffled, data):
    total = sum(counts)
    left_out = data.draw(st.sets(st.integers(0, total - 1), min_size=out, max_size=out))
    order = _order(counts, min(batch, total - out), left_out, shuffled=shuffled)
    seen = _epoch(order)
    assert len(set(seen.tolist())) == len(seen) == len(order) // order.batch * order.batch
    assert not set(seen.tolist()) & left_out
    assert 0 <= seen.min() <= seen.max() < total


def test_a_whole_epoch_is_every_photo():
    order = _order([7, 13, 4], 8)
    assert sorted(_epoch(order).tolist()) == list(range(24))


def test_any_batch_is_known_without_the_ones_before():
    order, again = _order([40, 25, 63], 8), _order([40, 25, 63], 8)
    whole = _epoch(order, 3, 5)
    for batch in (11, 4, 15):
        assert numpy.array_equal(again.rows(3, 8 * batch, 8 * batch + 8, 5), whole[8 * batch : 8 * batch + 8])


def test_ranks_are_disjoint_and_together_whole_for_any_number_of_them():
    order = _order([33, 50, 17, 60], 16)
    for ranks in (1, 2, 4, 8):
        part = 16 // ranks
        shares = [
            numpy.concatenate(
                [order.rows(0, 16 * n + r * part, 16 * n + (r + 1) * part, 0) for n in range(10)]
            )
            for r in range(ranks)
        ]
        assert all(
            len(share) == len(shares[0]) for share in shares
        )  # unequal shards, equal shares: nobody waits
        assert sorted(numpy.concatenate(shares).tolist()) == list(range(160))


def test_each_rank_reads_its_own_shards():
    """Eight equal shards, two ranks: a rank opens half of them, and no other."""
    order = _order([64] * 8, 16)
    shards = [
        {int(row) // 64 for n in range(32) for row in order.rows(0, 16 * n + 8 * r, 16 * n + 8 * r + 8, 0)}
        for r in range(2)
    ]
    assert len(shards[0]) == len(shards[1]) == 4
    assert not shards[0] & shards[1]


def test_epochs_and_seeds_differ():
    order = _order([50, 50, 50], 10)
    orders = [_epoch(order, 0, 0), _epoch(order, 1, 0), _epoch(order, 0, 1)]
    assert not any(numpy.array_equal(orders[i], orders[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_photos_move_within_the_window_and_no_further():
    """One shard and one lane: photo i stands in the block of 32 that it lies in, and blocks are shuffled inside."""
    order = _order([320], 1, shuffled=32)
    seen = _epoch(order)
    assert numpy.array_equal(seen // 32, numpy.arange(320) // 32)
    assert all(not numpy.array_equal(seen[n : n + 32], numpy.arange(n, n + 32)) for n in range(0, 320, 32))


def test_places_in_a_window_are_alike():
    """Where the first photo of a window of four goes: 1,200 windows, three standard errors of a share are 0.04."""
    order = _order([4800], 1, shuffled=4)
    place = numpy.flatnonzero(_epoch(order) % 4 == 0) % 4
    shares = numpy.bincount(place, minlength=4) / 1200
    assert (abs(shares - 0.25) < 0.04).all()


def test_a_batch_comes_from_many_shards():
    order = _order([100] * 40, 32)
    assert order.lanes == 32
    assert len(set((order.rows(0, 320, 352, 0) // 100).tolist())) > 12


def test_a_hundred_million_photos_cost_nothing_but_the_shards():
    order = _order([10_000] * 10_000, 1024)
    rows = order.rows(2, 50_000_000, 50_001_024, 0)
    assert len(set(rows.tolist())) == 1024
    assert order.lanes == 64


def test_left_out_rows_are_skipped():
    assert kept_below(numpy.arange(5), numpy.zeros(0, numpy.int64)).tolist() == [0, 1, 2, 3, 4]
    kept = kept_below(numpy.arange(7), numpy.array([1, 2, 9]))
    assert kept.tolist() == [0, 3, 4, 5, 6, 7, 8]


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(InvalidInput, match="batch is 9 of 8 photos"):
        _order([8], 9)
    with pytest.raises(InvalidInput, match="places 8 to 17 are not among the 16 of an epoch"):
        _order([18], 8).rows(0, 8, 17, 0)
