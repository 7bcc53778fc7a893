"""Facts from headers, whatever the header holds."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fewsight.data.header import claimed_size, exif_orientation, webp_size


def block(order: str, *entries: tuple[int, int, int]) -> bytes:
    """A TIFF block of (tag, kind, value)."""
    body = b"".join(
        struct.pack(order + "HHI", tag, kind, 1)
        + (struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value))
        for tag, kind, value in entries
    )
    return {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HIH", 42, 8, len(entries)) + body


def test_orientation_in_both_byte_orders_and_kinds():
    for order in "<>":
        for kind in (3, 4):
            exif = block(order, (0x010F, 3, 9), (0x0112, kind, 7), (0x011A, 3, 1))
            assert exif_orientation(exif) == 7
            assert exif_orientation(b"Exif\0\0" + exif) == 7
    assert exif_orientation(block("<", (0x0112, 3, 9))) == 1
    assert exif_orientation(block("<", (0x0110, 3, 3))) == 1


def test_what_pillow_writes():
    exif = Image.Exif()
    exif[0x0112] = 8
    assert exif_orientation(exif.tobytes()) == 8


@given(
    st.one_of(
        st.none(), st.text(), st.binary(max_size=60), st.binary(max_size=60).map(lambda b: b"II*\0" + b)
    )
)
def test_any_block_gives_an_orientation(exif):
    assert 1 <= exif_orientation(exif) <= 8


@given(st.binary(max_size=40))
def test_any_webp_header_gives_a_size_or_none(content):
    size = webp_size(content)
    assert size is None or len(size) == 2


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WebP"])
def test_claimed_sizes(kind, picture, encoded):
    content = encoded(picture(), kind.upper())
    assert claimed_size(kind, content) == (128, 96)
    assert claimed_size(kind, content[:12]) is None or kind == "GIF"


@given(st.sampled_from(["PNG", "GIF", "BMP", "WebP", "TIFF", "JPEG"]), st.binary(max_size=40))
def test_any_header_claims_a_size_or_none(kind, content):
    size = claimed_size(kind, content)
    assert size is None or min(size) >= 0


def test_webp_sizes(encoded, picture):
    for options in ({}, {"lossless": True}, {"save_all": True, "append_images": [picture(1)]}):
        assert webp_size(encoded(picture(), "WEBP", **options)) == (128, 96)
    assert webp_size(encoded(picture().convert("RGBA"), "WEBP")) == (128, 96)
