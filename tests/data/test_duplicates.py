"""Duplicates: equal files, photos saved again, and few false alarms on photos that are merely alike."""

from __future__ import annotations

import numpy
import pytest
from PIL import Image, ImageEnhance

from fewsight.data.collection import Collection
from fewsight.data.duplicates import NEAR, PhotoHashes, find_duplicates, hash_photos, nearest_duplicates
from fewsight.errors import InvalidInput


def scene(seed: int) -> Image.Image:
    """A picture with detail at every scale of the hash, as photos have."""
    draw = numpy.random.default_rng(seed)
    layers = [Image.fromarray(draw.integers(0, 256, (4 * s, 6 * s, 3), dtype=numpy.uint8)) for s in (1, 3, 8)]
    sized = [
        numpy.asarray(layer.resize((300, 200), Image.Resampling.BICUBIC), dtype=float) for layer in layers
    ]
    return Image.fromarray((numpy.mean(sized, axis=0) * 0.8 + 20).astype(numpy.uint8))


@pytest.fixture
def files(tmp_path, encoded, write):
    """Five photos; then photo 0 again byte for byte, 1 saved again smaller, 2 brighter; an empty and a broken file."""
    paths = [write(tmp_path / f"{n}.jpg", encoded(scene(n), quality=92)) for n in range(5)]
    paths.append(write(tmp_path / "same.jpg", paths[0].read_bytes()))
    paths.append(write(tmp_path / "small.png", encoded(scene(1).resize((150, 100)), "PNG")))
    paths.append(write(tmp_path / "bright.jpg", encoded(ImageEnhance.Brightness(scene(2)).enhance(1.1))))
    paths.append(write(tmp_path / "empty.jpg", b""))
    paths.append(write(tmp_path / "broken.jpg", paths[3].read_bytes()[:300]))
    return paths


def test_pairs_within_a_set(files):
    found = find_duplicates(hash_photos(files, workers=2))
    assert [(d.first, d.second, d.exact) for d in found] == [(0, 5, True), (1, 6, False), (2, 7, False)]
    assert found[0].distance == 0
    assert all(d.distance <= NEAR for d in found)


def test_pairs_between_sets_and_the_nearest(files):
    support, pile = hash_photos(files[:5]), hash_photos(files[5:])
    assert {(d.first, d.second) for d in find_duplicates(support, pile)} == {(0, 0), (1, 1), (2, 2)}
    nearest, exact = nearest_duplicates(pile, support)
    assert nearest.tolist() == [0, 1, 2, -1, -1]
    assert exact.tolist() == [True, False, False, False, False]


def test_bytes_alone(files):
    hashes = hash_photos(files, exact_only=True)
    assert not hashes.comparable.any()
    assert [(d.first, d.second) for d in find_duplicates(hashes)] == [(0, 5)]


def test_what_cannot_be_read_equals_nothing(files):
    hashes = hash_photos([files[8], files[8], files[9], files[9]])
    assert hashes.readable.tolist() == [False, False, True, True]
    assert [(d.first, d.second, d.exact) for d in find_duplicates(hashes)] == [(2, 3, True)]


def test_photos_of_one_colour_are_only_compared_by_content(encoded, write, tmp_path):
    paths = [
        write(tmp_path / f"{n}.png", encoded(Image.new("RGB", (64, 64), colour), "PNG"))
        for n, colour in enumerate(["white", "grey", "white"])
    ]
    assert [(d.first, d.second) for d in find_duplicates(hash_photos(paths))] == [(0, 2)]


def test_pictures_in_memory(picture):
    array = numpy.asarray(picture(0))
    found = find_duplicates(hash_photos([picture(0), array, picture(1)]))
    assert [(d.first, d.second, d.exact) for d in found] == [(0, 1, True)]


def plain_distance(a: PhotoHashes, b: PhotoHashes) -> list[list[int]]:
    return [[int(numpy.unpackbits(x ^ y).sum()) for y in b.perceptual] for x in a.perceptual]


def test_distances_are_counts_of_bits():
    draw = numpy.random.default_rng(0)

    def some(count: int) -> PhotoHashes:
        yes = numpy.ones(count, dtype=bool)
        return PhotoHashes(
            draw.integers(0, 256, (count, 16), dtype=numpy.uint8),
            draw.integers(0, 256, (count, 32), dtype=numpy.uint8),
            yes,
            yes,
        )

    a, b = some(7), some(9)
    found = {(d.first, d.second): d.distance for d in find_duplicates(a, b, distance=256)}
    expected = plain_distance(a, b)
    assert found == {(i, j): expected[i][j] for i in range(7) for j in range(9)}


def test_nothing_and_wrong_distances():
    none = hash_photos([])
    assert find_duplicates(none) == ()
    assert nearest_duplicates(none, none)[0].shape == (0,)
    for wrong in (-1, 257):
        with pytest.raises(InvalidInput, match="distance"):
            find_duplicates(none, distance=wrong)


def test_few_false_alarms_on_distinct_photos(data_set):
    """Of the 79,800 pairs of dtd10 one is a near-duplicate, and that a true one; of those of resisc12 none."""
    from fewsight.data.layouts import read_layout

    for name, at_most in (("dtd10", 1), ("resisc12", 0)):
        collection: Collection = read_layout(data_set(name)).collection
        assert len(find_duplicates(hash_photos(collection.select(numpy.arange(400))))) <= at_most


def test_few_false_alarms_on_drawings(shared):
    with numpy.load(shared / "data" / "omniglot.npz") as content:
        rows = numpy.random.default_rng(0).choice(32_460, 300, replace=False)
        bits = numpy.unpackbits(content["image28"][rows], axis=1)[:, :784].reshape(-1, 28, 28)
    drawings = [
        numpy.repeat(255 * (1 - drawing)[:, :, None], 3, axis=2).astype(numpy.uint8) for drawing in bits
    ]
    assert find_duplicates(hash_photos(drawings)) == ()
