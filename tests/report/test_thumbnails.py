"""Thumbnails: size, formats, metadata, damaged input, budget."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from fewsight.report.thumbnails import Album, Thumbnail, make_thumbnail
from report.pages import photo_bytes


def opened(thumbnail: Thumbnail | None) -> Image.Image:
    assert thumbnail is not None
    kind, data = thumbnail.uri.split(",", 1)
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA"])
@pytest.mark.parametrize("size", [(300, 200), (20, 400), (1, 1), (3000, 1)])
def test_every_mode_and_shape_fits_the_edge(mode: str, size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (200, 30, 60)).convert(mode)
    image = opened(make_thumbnail(picture, edge=96))
    assert max(image.size) <= 96
    assert image.mode == "RGB"
    assert picture.size == size  # the picture given is not changed


def test_transparency_becomes_white() -> None:
    image = opened(make_thumbnail(Image.new("RGBA", (10, 10), (255, 0, 0, 0))))
    # lossy WebP may be a grey level off
    assert np.asarray(image).min() >= 253


def test_no_metadata_survives_and_exif_is_turned() -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010E] = "SECRET-PLACE"
    Image.new("RGB", (80, 40)).save(stream, "JPEG", exif=exif)
    thumbnail = make_thumbnail(stream.getvalue())
    image = opened(thumbnail)
    assert image.size == (40, 80)
    assert not dict(image.getexif())
    assert thumbnail is not None
    assert b"SECRET" not in base64.b64decode(thumbnail.uri.split(",")[1])


@pytest.mark.parametrize(
    "broken",
    [None, b"", b"<html>", photo_bytes(1)[:60], b"%!PS-Adobe-3.0 EPSF", Image.new("RGB", (0, 5))],
    ids=["none", "empty", "html", "truncated", "eps", "no pixels"],
)
def test_what_cannot_be_shown_is_none(broken: bytes | Image.Image | None) -> None:
    assert make_thumbnail(broken) is None


def test_each_photo_is_read_once() -> None:
    read = []
    album = Album(lambda kind, file: read.append((kind, file)) or photo_bytes(0))
    first = album.picture("query", "a")
    assert album.known("support", "a") is None
    assert album.picture("query", "a") is first
    other = album.picture("support", "a")
    assert read == [("query", "a"), ("support", "a")]
    assert first is not None
    assert other is not None
    assert first.key != other.key


def test_the_budget_holds() -> None:
    album = Album(lambda kind, file: photo_bytes(len(file)), budget=1500)
    made = [album.picture("query", "x" * index) for index in range(40)]
    shown = [thumbnail for thumbnail in made if thumbnail]
    assert 0 < len(shown) < 40
    assert album.left_out == 40 - len(shown)
    # the last one may reach over the edge
    assert album.used - len(shown[-1].uri) < 1500
