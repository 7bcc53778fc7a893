"""Damage in JPEGs that decode without complaint: what is found, and that sound files are left in peace."""

from __future__ import annotations

import io

import numpy
import pytest
from PIL import Image

from fewsight.data.damage import WatchedBytes, grey_tail, jpeg_damage, scan_jpeg
from fewsight.data.decode import decode_bytes
from fewsight.errors import UnreadableImage

SOUND = [
    {},
    {"quality": 95, "subsampling": 0},
    {"quality": 30},
    {"optimize": True},
    {"progressive": True},
    {"restart_marker_blocks": 8},
]


@pytest.mark.parametrize("options", SOUND, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 33), (96, 128), (375, 500)])
def test_sound_files_are_not_suspected(options, mode, size, picture, encoded):
    content = encoded(picture(3, *size).convert(mode), **options)
    for needed in (None, (8, 8)):
        assert not decode_bytes(content, needed=needed).suspicious
    assert scan_jpeg(content).complaint is None


@pytest.mark.parametrize("options", SOUND, ids=str)
@pytest.mark.parametrize("colour", [(128, 128, 128), (255, 255, 255), (0, 0, 0), (3, 90, 200)])
def test_plain_pictures_are_not_suspected(options, colour, encoded):
    assert not decode_bytes(encoded(Image.new("RGB", (200, 120), colour), **options)).suspicious


def test_what_follows_the_end_is_not_damage(picture, encoded):
    content = encoded(picture())
    for more in (b"\0", bytes(1000), b"trailing video \xff\xd8\xff\xe0" * 10):
        decoded = decode_bytes(content + more)
        assert not decoded.suspicious
        assert numpy.array_equal(decoded.image, decode_bytes(content).image)


def test_watching_changes_no_pixel(picture, encoded):
    for options in SOUND:
        content = encoded(picture(1, 200, 300), **options)
        plain = numpy.asarray(Image.open(io.BytesIO(content)))
        assert numpy.array_equal(decode_bytes(content).image, plain)


def overwrite(content: bytes, place: float, length: int, filling: bytes | None) -> bytes:
    """`content` with a stretch of its picture data overwritten, or cut out with `filling` None."""
    start = content.index(b"\xff\xda") + 20
    at = start + int(place * (len(content) - 2 - start - length))
    middle = b"" if filling is None else (filling * length)[:length]
    return content[:at] + middle + content[at + length :]


@pytest.mark.parametrize("options", [{}, {"quality": 95, "subsampling": 0}, {"optimize": True}], ids=str)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_zeroed_middle_is_suspected(options, seed, place, picture, encoded):
    damaged = overwrite(encoded(picture(seed, 375, 500), **options), place, 200, b"\0")
    for needed in (None, (40, 40)):
        decoded = decode_bytes(damaged, needed=needed)
        assert decoded.suspicious
        assert decoded.notes[-1].startswith("damaged: ")


def test_a_noisy_middle_is_never_taken_for_sound(picture, encoded):
    """Random bytes over the middle of a default JPEG: found in at least nine of ten (measured: 96 %)."""
    found = 0
    for seed in range(50):
        noise = numpy.random.default_rng(seed).bytes(200)
        damaged = overwrite(encoded(picture(seed % 5, 375, 500)), 0.1 + 0.8 * seed / 50, 200, noise)
        try:
            found += decode_bytes(damaged).suspicious
        except UnreadableImage:
            found += 1
    assert found >= 45


def test_a_missing_stretch_is_suspected(picture, encoded):
    damaged = overwrite(encoded(picture(0, 375, 500)), 0.5, 400, None)
    assert decode_bytes(damaged).suspicious


def test_a_missing_end_marker_is_suspected(picture, encoded):
    decoded = decode_bytes(encoded(picture())[:-2] + bytes(40))
    assert decoded.notes == ("damaged: no end marker",)


def test_an_early_end_marker_leaves_a_grey_tail(picture, encoded):
    content = bytearray(encoded(picture(0, 375, 500)))
    half = len(content) // 2
    content[half : half + 2] = b"\xff\xd9"
    decoded = decode_bytes(bytes(content))
    assert decoded.suspicious


def test_wrong_markers_and_restarts_out_of_order(picture, encoded):
    content = encoded(picture(0, 375, 500))
    assert "wrong marker FFC9" in str(scan_jpeg(overwrite(content, 0.5, 4, b"\xff\xc9\0\2")).complaint)
    ordered = encoded(picture(0, 96, 128), restart_marker_blocks=4)
    assert scan_jpeg(ordered).complaint is None
    assert scan_jpeg(ordered.replace(b"\xff\xd1", b"\xff\xd5", 1)).complaint == "restart markers out of order"


def test_grey_tail_needs_another_top():
    grey = numpy.full((64, 64, 3), 128, dtype=numpy.uint8)
    assert not grey_tail(grey)
    grey[:30] = 7
    assert grey_tail(grey)
    grey[-1, 5, 1] = 129
    assert not grey_tail(grey)


def test_the_watch_hands_out_all_bytes_in_order(picture, encoded):
    content = encoded(picture())
    scan = scan_jpeg(content)
    watched = WatchedBytes(content, scan)
    blocks = []
    while block := watched.read(1000):
        blocks.append(block)
    assert b"".join(blocks) == content[: scan.data_end] + bytes(8) + content[scan.data_end :]
    assert watched.asked_for_rest
    assert watched.asked_for_end
    assert jpeg_damage(scan, watched, numpy.zeros((8, 8, 3), dtype=numpy.uint8)) is not None
