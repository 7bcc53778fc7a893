"""Loading: in order, past bad files, the same pixels whatever the batch and the workers."""

from __future__ import annotations

import itertools
import threading
import tracemalloc

import numpy
import pytest
import torch
from PIL import Image

from fewsight.data.collection import Collection, Row
from fewsight.data.decode import decode_bytes
from fewsight.data.loading import apply_transform, needed_size, photos, shrink
from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput

SMALL = Transform(size=(32, 32))


@pytest.fixture
def folder(tmp_path, write, picture, encoded):
    """A collection of 13 files of which four cannot be decoded and one is damaged."""
    for n in range(13):
        write(tmp_path / f"{n:02d}.jpg", encoded(picture(n, 40 + n, 60)))
    (tmp_path / "02.jpg").write_bytes(b"")
    (tmp_path / "05.jpg").write_bytes(b"<html></html>")
    (tmp_path / "07.jpg").unlink()
    (tmp_path / "12.jpg").write_bytes(b"%PDF-1.4")
    (tmp_path / "03.jpg").write_bytes(encoded(picture(3))[:-2] + bytes(9))
    return Collection.from_rows(tmp_path, (Row(b"%02d.jpg" % n) for n in range(13)))


def whole(batches) -> tuple[torch.Tensor, torch.Tensor, list]:
    batches = list(batches)
    outcomes = list(itertools.chain.from_iterable(batch.outcomes for batch in batches))
    return torch.cat([b.images for b in batches]), torch.cat([b.indices for b in batches]), outcomes


def test_each_photo_has_its_outcome_in_order(folder):
    images, indices, outcomes = whole(photos(folder, SMALL, 4, 2))
    assert [outcome.index for outcome in outcomes] == list(range(13))
    assert indices.tolist() == [0, 1, 3, 4, 6, 8, 9, 10, 11]
    assert images.shape == (9, 3, 32, 32)
    words = {o.index: (o.status, o.note) for o in outcomes if o.status != "ok"}
    assert words[2] == ("unreadable", "empty")
    assert words[5] == ("unreadable", "not an image")
    assert words[7] == ("unreadable", "file not found")
    assert words[12][0] == "refused"
    assert words[3] == ("suspicious", "damaged: no end marker")
    assert outcomes[0].original_size == (40, 60)
    assert outcomes[2].original_size is None


def test_pixels_do_not_depend_on_batch_or_workers(folder):
    expected = whole(photos(folder, SMALL, 1, 0))
    for batch_size, workers in [(1, 1), (3, 0), (4, 2), (13, 5), (64, 8)]:
        found = whole(photos(folder, SMALL, batch_size, workers))
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        assert found[2] == expected[2]


def test_a_batch_covers_consecutive_photos(folder):
    sizes = [len(batch.outcomes) for batch in photos(folder, SMALL, 5, 2)]
    assert sizes == [5, 5, 3]


def test_a_batch_of_bad_files_is_empty(folder):
    (batch,) = photos(folder.select([2, 5]), SMALL, 8, 0)
    assert batch.images.shape == (0, 3, 32, 32)
    assert batch.indices.tolist() == []
    assert list(photos(folder.select([]), SMALL)) == []


def test_other_sources(picture, tmp_path, write):
    path = write(tmp_path / "a.jpg")
    array = numpy.asarray(picture())
    images, _, outcomes = whole(photos([path, str(path), picture(), array], SMALL, 2, 2))
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[2], images[3])
    assert {outcome.status for outcome in outcomes} == {"ok"}


def test_names_in_bytes_are_said_in_the_note(tmp_path, write):
    write(tmp_path / "caf\udce9.jpg")
    (batch,) = photos(Collection.from_rows(tmp_path, [Row(b"caf\xe9.jpg")]), SMALL)
    assert batch.outcomes[0].note == "name is not UTF-8"
    assert batch.outcomes[0].status == "ok"


def test_links_that_leave(tmp_path, write):
    write(tmp_path / "out.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").symlink_to("../out.jpg")
    collection = Collection.from_rows(tmp_path / "in", [Row(b"a.jpg")])
    assert next(photos(collection, SMALL)).outcomes[0].note == "link leaves the folder"
    assert next(photos(collection, SMALL, follow_links=True)).outcomes[0].status == "ok"


def test_content_that_is_not_wanted_is_not_decoded(folder):
    digests: dict[str, int] = {}

    def first_time(digest: str) -> bool:
        digests[digest] = digests.get(digest, 0) + 1
        return digests[digest] == 1

    twice = folder.select([0, 1, 0])
    _, indices, outcomes = whole(photos(twice, SMALL, 8, 0, wanted=first_time))
    assert indices.tolist() == [0, 1]
    assert [outcome.status for outcome in outcomes] == ["ok", "ok", "skipped"]
    assert outcomes[0].digest == outcomes[2].digest != outcomes[1].digest


def test_stopping_early_ends_the_threads(folder):
    many = folder.select([0, 1, 3] * 200)
    stream = photos(many, SMALL, 2, 3)
    next(stream)
    stream.close()
    for thread in threading.enumerate():
        if thread.name.startswith("fewsight-decode"):
            thread.join(10)
            assert not thread.is_alive()


def test_memory_does_not_grow_with_the_number_of_photos(folder):
    def peak(count: int) -> int:
        many = folder.select([0, 1, 4] * (count // 3))
        tracemalloc.start()
        for _ in photos(many, SMALL, 8, 2):
            pass
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(30)
    # a photo has 12 KB of pixels here: 400 more of them would take 5 MB (measured: 40 KB of noise)
    assert peak(480) < peak(60) + 300_000


def test_wrong_settings(folder):
    with pytest.raises(InvalidInput, match="batch_size"):
        photos(folder, SMALL, 0)
    with pytest.raises(InvalidInput, match="workers"):
        photos(folder, SMALL, 1, -1)
    for wrong in (numpy.zeros((4, 4), dtype=numpy.uint8), numpy.zeros((4, 4, 3))):
        with pytest.raises(InvalidInput, match="image"):
            apply_transform(wrong, SMALL)


def plain_recipe(image: numpy.ndarray, transform: Transform) -> torch.Tensor:
    """Resize all of the picture, cut out the centre, scale, normalise: the recipe in plain steps."""
    tall, wide = needed_size(transform)
    height, width = image.shape[:2]
    if transform.mode == "crop":
        if tall * width <= wide * height:
            tall = int(wide * height / width)
        else:
            wide = int(tall * width / height)
    kind = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[
        transform.interpolation
    ]
    resized = Image.fromarray(image).resize((wide, tall), kind)
    h, w = transform.size
    left, top = round((wide - w) / 2), round((tall - h) / 2)
    pixels = (
        torch.from_numpy(numpy.array(resized.crop((left, top, left + w, top + h)))).permute(2, 0, 1) / 255
    )
    mean, std = (torch.tensor(values)[:, None, None] for values in (transform.mean, transform.std))
    return (pixels - mean) / std


@pytest.mark.parametrize("mode", ["crop", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_the_transform_is_resize_crop_normalise(mode, interpolation, size, picture):
    for seed, (height, width) in enumerate([(96, 128), (200, 60), (40, 40), (33, 300)]):
        image = numpy.asarray(picture(seed, height, width))
        for fraction in (1.0, 0.875):
            transform = Transform(size, mode, fraction, interpolation)
            levels = (apply_transform(image, transform) - plain_recipe(image, transform)).abs() * 255 * 0.229
            # Pillow rounds between its passes and orders them by the sizes: two grey levels at the most
            assert levels.max() <= 2.1
            assert levels.mean() < 0.3  # measured: up to 0.2, where Pillow's order of passes differs


def test_normalisation_is_bit_exact():
    transform = Transform(size=(16, 16))
    image = numpy.arange(768, dtype=numpy.uint16).astype(numpy.uint8).reshape(16, 16, 3)
    assert torch.equal(apply_transform(image, transform), plain_recipe(image, transform))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (20, 20000)])
@pytest.mark.parametrize("mode", ["crop", "squash"])
def test_odd_aspects_cost_no_more(shape, mode):
    image = numpy.full((*shape, 3), 200, dtype=numpy.uint8)
    tracemalloc.start()
    small = shrink(image, Transform(size=(224, 224), mode=mode))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert small.shape == (224, 224, 3)
    assert (small == 200).all()
    assert peak < 8 << 20


def test_reduced_decoding_serves_the_same_picture(picture, encoded):
    content = encoded(picture(0, 600, 800), quality=92)
    transform = Transform(size=(64, 64))
    reduced = apply_transform(decode_bytes(content, needed=needed_size(transform)).image, transform)
    full = apply_transform(decode_bytes(content).image, transform)
    assert (
        reduced - full
    ).abs().mean() * 255 * 0.225 < 1.5  # grey levels; JPEG's scaling is another low-pass
