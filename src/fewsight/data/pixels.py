"""From whatever a file holds to uint8 RGB: one rule for each kind of pixel, and a note where it mattered.

grey, colour, palette       to RGB as they are
transparency               composed on white
CMYK, YCCK                 by the embedded ICC profile to sRGB, else R = (255 - C)(255 - K) / 255
16-bit grey                v * 255 / (2^bits - 1), where bits is what the file declares, or, where the file says
                           16 (or more) but holds less, the smallest of 8, 10, 12, 14, 16 bits that holds its
                           largest value: 12 bits in 16 are neither black nor clipped
other integers             by the smallest such range; with negative values from percentile 0.1 to 99.9
float                      [0, 1] by 255; [0, 255] as they are; else from percentile 0.1 to 99.9; pixels that are
                           not finite become the darkest
RGB with an ICC profile    as stored: backbones were trained on pixels that ignore the profile
"""

from __future__ import annotations

import io
from typing import Any

import numpy
from numpy.typing import NDArray
from PIL import Image, ImageCms

from fewsight.errors import UnreadableImage

__all__ = ["Pixels", "rgb_pixels", "scale_float", "scale_integers"]

Pixels = NDArray[numpy.uint8]

BIT_DEPTHS = (8, 10, 12, 14, 16, 24, 32)
LOW_PERCENTILE, HIGH_PERCENTILE = 0.1, 99.9
_DIRECT = ("RGB", "RGBX", "L", "1", "YCbCr", "HSV", "LAB")
_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")


def rgb_pixels(image: Image.Image, *, declared_bits: int | None = None) -> tuple[Pixels, tuple[str, ...]]:
    """uint8 [H, W, 3] of a decoded Pillow image, and the notes on what was done.

    Args:
        image: loaded, in any of Pillow's modes.
        declared_bits: significant bits of grey values that do not fill their 16 (TIFF BitsPerSample, PNG sBIT).

    Raises:
        UnreadableImage: `refused` for a colour space without a rule, `unreadable` without one finite pixel.
    """
    mode = image.mode
    if mode in _ALPHA or "transparency" in image.info:
        return _on_white(image)
    if mode == "P":
        return _array(image.convert("RGB")), ()
    if mode == "CMYK":
        return _from_cmyk(image)
    if mode == "F":
        grey, note = scale_float(numpy.asarray(image))
        return _three(grey), (note,)
    if mode == "I" or mode.startswith("I;"):
        values = numpy.asarray(image if mode in ("I", "I;16", "I;16L", "I;16N") else image.convert("I"))
        grey, note = scale_integers(values, declared_bits)
        return _three(grey), (note,)
    if mode in _DIRECT:
        return _array(image if mode == "RGB" else image.convert("RGB")), ()
    raise UnreadableImage(f"colour space not allowed ({mode}): save it as RGB", status="refused")


def scale_integers(values: NDArray[Any], declared_bits: int | None = None) -> tuple[Pixels, str]:
    """Grey values of more than 8 bits as uint8 of the same shape, and the rule in words.

    >>> scale_integers(numpy.array([[0, 2048, 4095]], dtype=numpy.uint16))
    (array([[  0, 128, 255]], dtype=uint8), '12-bit grey in 16 bits scaled by 4095')
    """
    low, high = int(values.min()), int(values.max())
    if low < 0:
        grey, rule = _by_percentiles(values)
        return grey, f"signed grey {rule}"
    bits = next((bits for bits in BIT_DEPTHS if high < 2**bits), 32)
    if declared_bits is not None and high < 2**declared_bits:
        bits, origin = declared_bits, " (declared)"
    else:
        origin = "" if bits >= 16 else f" in {8 * values.dtype.itemsize} bits"
    top = 2**bits - 1
    scaled = _in_strips(values, lambda strip: strip.astype(numpy.float32) * numpy.float32(255 / top) + 0.5)
    return scaled, f"{bits}-bit grey{origin} scaled by {top}"


def scale_float(values: NDArray[Any]) -> tuple[Pixels, str]:
    """Float grey values as uint8 of the same shape, and the rule in words.

    >>> scale_float(numpy.array([[0.0, 0.5, 1.0]]))
    (array([[  0, 128, 255]], dtype=uint8), 'float grey in [0, 1] scaled by 255')
    """
    finite = numpy.isfinite(values)
    missing = int(values.size - finite.sum())
    if missing == values.size:
        raise UnreadableImage("no finite pixels")
    if missing:
        values = numpy.where(finite, values, values[finite].min())
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 255:
        factor, rule = (255, "in [0, 1] scaled by 255") if high <= 1 else (1, "in [0, 255] kept")
        grey = _in_strips(values, lambda strip: strip * factor + 0.5)
    else:
        grey, rule = _by_percentiles(values)
    return grey, f"float grey {rule}" + (f", {missing:,} pixels not finite made darkest" if missing else "")


def _by_percentiles(values: NDArray[Any]) -> tuple[Pixels, str]:
    # a regular sample of at most a million pixels keeps the sort small
    sample = values.reshape(-1)[:: max(1, values.size // 1_000_000)].astype(numpy.float64)
    low, high = numpy.percentile(sample, [LOW_PERCENTILE, HIGH_PERCENTILE])
    if not high > low:
        low, high = float(values.min()), float(values.max())
    span = high - low if high > low else 1.0
    grey = _in_strips(values, lambda strip: (strip.astype(numpy.float64) - low) / span * 255 + 0.5)
    return grey, f"scaled from {low:.6g} to {high:.6g} (percentiles {LOW_PERCENTILE} and {HIGH_PERCENTILE})"


def _in_strips(values: NDArray[Any], scale: Any) -> Pixels:
    """`scale` on strips of rows, so that the float copy stays small beside the picture."""
    grey = numpy.empty(values.shape, dtype=numpy.uint8)
    rows = max(1, 1_000_000 // max(1, values.shape[-1]))
    for top in range(0, values.shape[0], rows):
        grey[top : top + rows] = numpy.clip(scale(values[top : top + rows]), 0, 255)
    return grey


def _on_white(image: Image.Image) -> tuple[Pixels, tuple[str, ...]]:
    if image.mode in ("I;16", "I", "F"):  # a 16-bit grey picture with one transparent value: keep its pixels
        opaque = image.copy()
        opaque.info = {key: value for key, value in image.info.items() if key != "transparency"}
        return rgb_pixels(opaque)
    with_alpha = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    low, _ = with_alpha.getchannel("A").getextrema()
    if low == 255:
        return _array(with_alpha.convert("RGB")), ()
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(with_alpha, mask=with_alpha.getchannel("A"))
    return _array(canvas), ("transparency composed on white",)


def _from_cmyk(image: Image.Image) -> tuple[Pixels, tuple[str, ...]]:
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # a damaged or foreign profile: the plain rule below
        else:
            if converted is not None:
                return _array(converted), ("CMYK converted by its ICC profile",)
    return _array(image.convert("RGB")), ("CMYK converted without a profile",)


def _three(grey: Pixels) -> Pixels:
    return numpy.repeat(grey[:, :, None], 3, axis=2)


def _array(image: Image.Image) -> Pixels:
    return numpy.array(image)
