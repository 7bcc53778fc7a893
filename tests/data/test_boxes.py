"""What is cut out of a photo, and that the network sees that part alone."""

from __future__ import annotations

import numpy
import torch
from PIL import Image

from fewsight.data.boxes import cut_out, needed_whole
from fewsight.data.collection import Collection, Row
from fewsight.data.fingerprint import fingerprint
from fewsight.data.loading import photos
from fewsight.data.transform import Transform

BOX = (0.25, 0.5, 0.5, 0.25)


def test_cutting_out():
    image = (
        numpy.arange(100 * 200, dtype=numpy.uint16)
        .astype(numpy.uint8)
        .reshape(100, 200)[:, :, None]
        .repeat(3, axis=2)
    )
    part = cut_out(image, (0.25, 0.5, 0.5, 0.25), margin=0)
    assert numpy.array_equal(part, image[50:75, 50:150])
    assert cut_out(image, (0.25, 0.5, 0.5, 0.25), margin=0.1).shape[:2] == (31, 120)
    assert cut_out(image, (0, 0, 1, 1), margin=0.5).shape == image.shape
    for box in [(1, 1, 0, 0), (0, 0, 0, 0), (0.999, 0.999, 0.001, 0.001)]:
        assert min(cut_out(image, box, margin=0).shape) >= 1


def test_a_small_box_asks_for_more_pixels_up_to_a_limit():
    assert needed_whole((224, 224), (0, 0, 0.5, 1)) == (224, 448)
    assert needed_whole((224, 224), (0, 0, 1e-9, 1e-9)) == (16 * 224, 16 * 224)


def test_the_loader_gives_the_part_and_says_so(tmp_path):
    pixels = numpy.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(cut_out(pixels, BOX)).save(tmp_path / "part.png")
    rows = [Row(b"a.png", box=BOX), Row(b"a.png"), Row(b"part.png")]
    collection = Collection.from_rows(tmp_path, rows)
    asked = []
    (batch,) = photos(
        collection, Transform(size=(16, 16)), 8, 0, wanted=lambda digest: asked.append(digest) or True
    )
    assert torch.equal(batch.images[0], batch.images[2])
    assert not torch.equal(batch.images[0], batch.images[1])
    assert [outcome.note for outcome in batch.outcomes] == ["cut to its surest box", "", ""]
    assert len(set(asked)) == 3  # features of a part are kept apart from those of the whole
    assert fingerprint(collection) != fingerprint(collection.whole())
