"""The rules from any kind of pixel to eight bits."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from fewsight.data.pixels import rgb_pixels, scale_float, scale_integers
from fewsight.errors import UnreadableImage

SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=6)


@given(arrays.arrays(st.sampled_from([numpy.uint16, numpy.int32]), SHAPES))
def test_integers_keep_their_order_and_are_never_all_white(values):
    grey, note = scale_integers(values)
    order = numpy.argsort(values, axis=None, kind="stable")
    assert (numpy.diff(grey.reshape(-1)[order].astype(int)) >= 0).all()
    assert note
    assert grey.shape == values.shape


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_range_is_the_smallest_that_holds_the_values(bits):
    values = numpy.array([[0, 2**bits - 1, 2 ** (bits - 1)]], dtype=numpy.uint16)
    grey, note = scale_integers(values)
    assert grey.tolist()[0][:2] == [0, 255]
    assert grey[0, 2] in (127, 128)
    assert f"{bits}-bit" in note


def test_declared_bits_that_are_wrong_do_not_clip():
    grey, note = scale_integers(numpy.array([[0, 5000]], dtype=numpy.uint16), declared_bits=12)
    assert grey.tolist() == [[0, 78]]  # 5000 * 255 / 16383
    assert "declared" not in note


@given(arrays.arrays(numpy.float32, SHAPES, elements=st.floats(width=32)))
def test_floats_are_scaled_or_refused(values):
    with numpy.errstate(all="ignore"):
        if not numpy.isfinite(values).any():
            with pytest.raises(UnreadableImage, match="finite"):
                scale_float(values)
            return
        grey, note = scale_float(values)
    assert grey.dtype == numpy.uint8
    assert note.startswith("float grey")


def test_float_rules():
    assert scale_float(numpy.array([[0.0, 200.0]]))[0].tolist() == [[0, 200]]
    grey, note = scale_float(numpy.array([[-1.0, 0.0, 1.0]]))
    assert grey.tolist() in ([[0, 127, 255]], [[0, 128, 255]])
    assert "percentiles" in note
    assert scale_float(numpy.full((2, 2), -7.0))[0].tolist() == [[0, 0], [0, 0]]


def test_a_hot_pixel_does_not_darken_the_rest():
    values = numpy.random.default_rng(0).normal(1000, 100, (100, 100))
    values[0, 0] = 1e9
    assert scale_float(values)[0].std() > 30


def test_colour_spaces_without_a_rule_are_refused():
    image = Image.new("L", (4, 4))
    image._mode = "XYZ"  # Pillow may learn new ones
    with pytest.raises(UnreadableImage, match="XYZ") as caught:
        rgb_pixels(image)
    assert caught.value.status == "refused"


@pytest.mark.parametrize(
    "mode",
    [
        "1",
        "L",
        "P",
        "RGB",
        "RGBX",
        "YCbCr",
        "HSV",
        "LAB",
        "CMYK",
        "RGBA",
        "RGBa",
        "LA",
        "La",
        "PA",
        "I",
        "F",
        "I;16",
        "I;16B",
    ],
)
def test_every_mode_of_pillow_gives_three_channels(mode):
    if mode == "RGBa":
        image = Image.new("RGBA", (5, 4)).convert("RGBa")
    elif mode == "La":
        image = Image.new("LA", (5, 4)).convert("La")
    else:
        image = Image.new(mode, (5, 4))
    pixels, _ = rgb_pixels(image)
    assert pixels.shape == (4, 5, 3)
    assert pixels.dtype == numpy.uint8
