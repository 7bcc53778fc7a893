import numpy
import torch

from fewsight.data import resident
from fewsight.data.resident import ResidentPhotos, fits, free_memory
from fewsight.data.store import PixelStore


def _store(count: int = 9, side: int = 12) -> PixelStore:
    pixels = numpy.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=numpy.uint8)
    pixels.setflags(write=False)  # as a memory-mapped file is
    return PixelStore(pixels, frozenset(), "")


def test_rows_are_those_of_the_store(monkeypatch):
    monkeypatch.setattr(resident, "BLOCK_BYTES", 1000)  # several blocks
    store = _store()
    photos = ResidentPhotos(store, "cpu")
    for index in ([3, 0, 8, 3], numpy.array([7]), numpy.zeros(0, numpy.int64)):
        assert torch.equal(photos.rows(index), store.rows(index))
    assert len(photos) == len(store)
    assert photos.rows([2]).stride() == store.rows([2]).stride()  # the same layout, hence the same kernels


def test_only_a_share_of_the_free_memory_is_taken():
    """A store of 100,000 photos of 256 px has 18.3 GiB: on a card with 24 it would leave too little, on 80 it fits."""
    size = 100_000 * 256 * 256 * 3
    assert not fits(size, 24 << 30)
    assert fits(size, 80 << 30)
    assert not fits(0, None)


def test_photos_are_moved_to_the_device_that_is_named():
    photos = ResidentPhotos(_store(), "meta")  # a device without memory: shows where tensors would lie
    assert photos.pixels.device.type == "meta"
    assert photos.rows([1, 2]).device.type == "meta"
    assert photos.rows([1, 2]).shape == (2, 3, 12, 12)


def test_the_processor_needs_no_residence():
    assert free_memory("cpu") is None
