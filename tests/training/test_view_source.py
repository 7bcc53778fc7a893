from dataclasses import replace

import numpy
import pytest
import torch

from fewsight import distributed
from fewsight.data.resident import ResidentPhotos
from fewsight.data.shards.order import ShardOrder
from fewsight.data.store import PixelStore
from fewsight.data.transform import Transform
from fewsight.data.views import ViewSpec
from fewsight.errors import InvalidInput
from fewsight.training.view_source import ViewSource, epoch_rows

TWO_VIEWS = (ViewSpec(1, 16, "dino_1", (0.4, 1.0)), ViewSpec(2, 8, "dino_local", (0.05, 0.4)))


class _Photos:
    """Twelve photos, each of one colour: 20 times its number."""

    def __len__(self):
        return 12

    def rows(self, index):
        levels = 20 * torch.as_tensor(numpy.asarray(index)).to(torch.uint8)
        return levels.view(-1, 1, 1, 1).expand(-1, 3, 16, 16).contiguous()


def _source(batch_size=5, rows=12, **others):
    return ViewSource(_Photos(), numpy.arange(rows), TWO_VIEWS, Transform(), batch_size, **others)


def test_views_come_as_declared():
    batch = _source()(0)
    assert [tuple(view.shape) for view in batch.images] == [(5, 3, 16, 16), (5, 3, 8, 8), (5, 3, 8, 8)]
    assert batch.step == 0
    assert batch.labels is None


def test_an_epoch_sees_no_photo_twice_and_epochs_differ():
    source = _source(4)
    epochs = [[int(i) for n in range(3) for i in source(3 * e + n).index] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]


def test_the_same_batch_whatever_came_before():
    first, again = _source(seed=3), _source(seed=3)
    first(0)
    for one, other in zip(first(4).images, again(4).images, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(_source(seed=4)(4).index, again(4).index)


def test_the_same_photo_gets_another_view_in_the_next_epoch():
    source = _source(12)
    views = {}
    for epoch in range(2):
        batch = source(epoch)
        views[epoch] = batch.images[0][batch.index.argsort()]
    assert not torch.allclose(views[0], views[1])


def test_two_ranks_see_the_parts_of_one_batch(monkeypatch):
    whole = _source(4)(5)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        parts.append(_source(4)(5))
    assert torch.equal(torch.cat([part.index for part in parts]), whole.index)
    for view in range(3):
        joined = torch.cat([part.images[view] for part in parts])
        torch.testing.assert_close(
            joined, whole.images[view], rtol=0, atol=1e-5
        )  # blurs of other batch sizes


def test_labels_follow_their_photos():
    labels = numpy.arange(12) % 3
    batch = _source(labels=labels)(1)
    assert batch.labels.tolist() == (batch.index % 3).tolist()


def test_a_batch_is_cut_to_the_photos_there_are():
    source = _source(64, rows=3)
    assert (source.size, source.batches_per_epoch) == (3, 1)
    assert sorted(source(7).index.tolist()) == [0, 1, 2]


def test_views_are_normalised_by_the_transform():
    plain = ViewSpec(1, 16, "crop_flip", (1.0, 1.0))
    source = replace(
        _source(12), views=(plain,), transform=Transform(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    )
    batch = source(0)
    expected = (20 * batch.index.float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(batch.images[0].mean((1, 2, 3)), expected)


def test_orders_are_permutations():
    assert sorted(epoch_rows(50, 3, 0)) == list(range(50))


def test_what_cannot_be_is_said(monkeypatch):
    with pytest.raises(InvalidInput, match="no photos"):
        _source(rows=0)
    with pytest.raises(InvalidInput, match="declares no views"):
        replace(_source(), views=())
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(InvalidInput, match="equal parts for 2 ranks"):
        _source(5)


def test_photos_that_live_on_the_device_give_the_same_views():
    pixels = numpy.random.default_rng(0).integers(0, 256, (12, 20, 20, 3), dtype=numpy.uint8)
    store = PixelStore(pixels, frozenset(), "")
    stored, resident = (
        replace(_source(4), photos=photos)(5) for photos in (store, ResidentPhotos(store, "cpu"))
    )
    assert torch.equal(stored.index, resident.index)
    for one, other in zip(stored.images, resident.images, strict=True):
        assert torch.equal(one, other)


def test_an_order_of_its_own_takes_the_place_of_the_shuffle():
    starts = numpy.array([0, 5, 12])
    order = ShardOrder(starts, batch=4, left_out=numpy.array([2, 6]))
    source = replace(_source(4, seed=3), rows=order)
    assert (len(order), source.batches_per_epoch) == (10, 2)
    batches = [source(number).index.tolist() for number in range(6)]
    for epoch in range(3):
        expected = order.rows(epoch, 0, 8, 3).tolist()
        assert batches[2 * epoch] + batches[2 * epoch + 1] == expected
    assert not {2, 6} & {row for batch in batches for row in batch}
    assert batches[:2] != batches[2:4]
