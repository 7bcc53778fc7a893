"""A photo file to uint8 RGB pixels, or to a reason why not. Nothing that a file holds stops a run.

The order of defence: the bytes are read with bounds (`source`), the format is known by content and stands on an
allow-list (`signatures`), the size is read from the header and bounded before any pixel is decoded, pixels become
RGB by stated rules (`pixels`), and a JPEG that decodes without complaint is still looked at for damage (`damage`).

Pillow's plugins are called by class, not through `Image.open`: no other format can be reached, no outside program
started, and none of Pillow's global settings is read or changed. Its warnings are silenced while it works.
"""

from __future__ import annotations

import functools
import io
import math
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from fewsight.data.damage import WatchedBytes, grey_tail, jpeg_damage, scan_jpeg
from fewsight.data.header import claimed_size, exif_orientation, grey_bits
from fewsight.data.pixels import Pixels, rgb_pixels
from fewsight.data.signatures import CAMERA_RAW_SUFFIXES, FORMATS, HEAD_BYTES, Format, detect_format
from fewsight.data.source import read_bytes
from fewsight.errors import InvalidInput, UnreadableImage

__all__ = ["MAX_PIXELS", "Decoded", "Source", "decode", "decode_bytes", "decode_raw", "silent_pillow"]

MAX_PIXELS = 178_956_970  # Pillow's own bound for an error: a quarter of 2 GiB at 3 bytes a pixel
ODD_ASPECT = 16  # longer over shorter side
TINY_SIDE = 4  # pixels
MAX_PAGES = 100  # counted in a TIFF
# A JPEG is decoded at 1/2, 1/4 or 1/8 where that still leaves this many times the pixels needed a side. At 1 few-shot
# accuracy of the bundled backbone did not fall (benchmarks/reduced_decode.py), and decoding is nearly twice as fast.
REDUCING_GAP = 1.0

T = TypeVar("T")
Source = str | os.PathLike[str] | BinaryIO | Image.Image | numpy.ndarray

_PLUGINS: dict[Format, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}

# What undoes each EXIF orientation, on [H, W, 3].
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
_ORIENTATION = 0x0112

# As `warnings` keeps it: action, message, category, module, line. Both modules may be named as the place of a warning.
_FILTER = ("ignore", None, Warning, re.compile(r"PIL\.|fewsight\.data\.decode"), 0)


@dataclass(frozen=True)
class Decoded:
    """A decoded photo.

    Attributes:
        picture: the upright photo in RGB, perhaps at 1/2, 1/4 or 1/8 of the original size: uint8 [H, W, 3], or still
            the Pillow image where nothing had to be done to its pixels.
        original_size: height and width of the upright photo in pixels; masks and boxes refer to it.
        notes: what was done to the pixels, in words.
        suspicious: whether it decoded though it is damaged; the last note says how.
    """

    picture: Pixels | Image.Image
    original_size: tuple[int, int]
    notes: tuple[str, ...] = ()
    suspicious: bool = False

    @functools.cached_property
    def image(self) -> Pixels:
        """`picture` as uint8 [H, W, 3]."""
        return self.picture if isinstance(self.picture, numpy.ndarray) else numpy.array(self.picture)


def decode(
    source: Source,
    *,
    needed: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    root: str | Path | None = None,
) -> Decoded:
    """Decode one photo to upright uint8 RGB.

    Args:
        source: a path, an open binary file, a Pillow image, or a uint8 array [H, W], [H, W, 3] or [H, W, 4].
        needed: height and width that the caller will shrink the upright photo to at least; a much larger JPEG is
            then decoded at a reduced scale.
        max_pixels: a larger photo is refused before a pixel is decoded.
        root: links that lead out of this folder are refused.

    Raises:
        UnreadableImage: with `status` `unreadable` or `refused`; the message is the note for the photo's row.
    """
    if isinstance(source, Image.Image):
        return _guarded(lambda: _from_image(source, max_pixels))
    if isinstance(source, numpy.ndarray):
        return _guarded(lambda: _from_array(source, max_pixels))
    if isinstance(source, (str, os.PathLike)):
        content = read_bytes(source, max_bytes=8 * max_pixels + (1 << 26), root=root)
        return decode_bytes(content, needed=needed, max_pixels=max_pixels, suffix=Path(source).suffix)
    return decode_bytes(source.read(), needed=needed, max_pixels=max_pixels)


def decode_bytes(
    content: bytes, *, needed: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS, suffix: str = ""
) -> Decoded:
    """`decode` for the content of a file; `suffix` is only compared with what the content is."""
    if not content:
        raise UnreadableImage("empty")
    suffix = suffix.lower()
    kind = detect_format(content[:HEAD_BYTES])
    if kind == "TIFF" and suffix in CAMERA_RAW_SUFFIXES:
        raise UnreadableImage("format not allowed (camera raw): save it as JPEG or PNG", status="refused")
    decoded = _guarded(lambda: _decode_format(kind, content, needed, max_pixels))
    if suffix and suffix not in FORMATS[kind]:
        return replace(decoded, notes=(f"{kind} named {suffix}", *decoded.notes))
    return decoded


def decode_raw(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The Pillow image of a file as it is stored, loaded, with every bound of `decode`: for masks.

    Raises:
        UnreadableImage: as `decode`.
    """
    content = read_bytes(path, max_bytes=8 * max_pixels + (1 << 26))
    kind = detect_format(content[:HEAD_BYTES])

    def load() -> Image.Image:
        _check_size(claimed_size(kind, content), max_pixels)
        image = _PLUGINS[kind](io.BytesIO(content))
        _check_size(image.size, max_pixels)
        image.load()
        return image

    return _guarded(load)


def _guarded(work: Callable[[], T]) -> T:
    """Run a decoder in silence; whatever it raises becomes `UnreadableImage`."""
    try:
        with silent_pillow():
            return work()
    except (UnreadableImage, InvalidInput):
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(
            "too many pixels for PIL.Image.MAX_IMAGE_PIXELS as this program has set it", status="refused"
        ) from error
    except MemoryError as error:
        raise UnreadableImage("not enough memory to decode it", status="refused") from error
    except (
        Exception
    ) as error:  # plugins raise whatever damage leads to: struct.error, KeyError, SyntaxError, ...
        raise UnreadableImage(_complaint(error)) from error


def _decode_format(kind: Format, content: bytes, needed: tuple[int, int] | None, max_pixels: int) -> Decoded:
    if kind == "JPEG":
        return _decode_jpeg(content, needed, max_pixels)
    _check_size(claimed_size(kind, content), max_pixels)
    image = _PLUGINS[kind](io.BytesIO(content))
    _check_size(image.size, max_pixels)
    # Pillow turns a TIFF itself while loading
    orientation = 1 if kind == "TIFF" else exif_orientation(image.info.get("exif"))
    bits = grey_bits(image, content)
    image.load()
    pixels, notes = rgb_pixels(image, declared_bits=bits)
    return _upright(pixels, image.size, orientation, (*notes, *_frame_note(image)))


def _decode_jpeg(content: bytes, needed: tuple[int, int] | None, max_pixels: int) -> Decoded:
    scan = scan_jpeg(content)
    watched = WatchedBytes(content, scan) if scan.watchable else None
    image = JpegImagePlugin.JpegImageFile(watched or io.BytesIO(content))
    _check_size(image.size, max_pixels)
    orientation, size = exif_orientation(image.info.get("exif")), image.size
    if needed is not None:
        height, width = needed if orientation < 5 else needed[::-1]
        image.draft(None, (math.ceil(width * REDUCING_GAP), math.ceil(height * REDUCING_GAP)))
    image.load()
    plain = image.mode == "RGB" and orientation == 1
    picture, notes = (image, ()) if plain else rgb_pixels(image)
    damage = jpeg_damage(scan, watched, picture)
    if damage == "no end marker" and grey_tail(picture):
        # only where the program has set ImageFile.LOAD_TRUNCATED_IMAGES: else loading has raised
        raise UnreadableImage("truncated")
    decoded = _upright(picture, size, orientation, notes)
    if damage is None:
        return decoded
    return replace(decoded, notes=(*decoded.notes, f"damaged: {damage}"), suspicious=True)


def _from_image(image: Image.Image, max_pixels: int) -> Decoded:
    _check_size(image.size, max_pixels)
    orientation = image.getexif().get(_ORIENTATION, 1)
    image.load()
    pixels, notes = rgb_pixels(image)
    return _upright(pixels, image.size, orientation if orientation in _TURNS else 1, notes)


def _from_array(array: numpy.ndarray, max_pixels: int) -> Decoded:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != numpy.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        raise InvalidInput(
            f"image is an array of {array.dtype} with shape {list(array.shape)}; expected uint8 [H, W], "
            "[H, W, 3] or [H, W, 4]."
        )
    picture = Image.fromarray(array[:, :, 0] if array.ndim == 3 and channels == 1 else array)
    return _from_image(picture, max_pixels)


def _check_size(size: tuple[int, int] | None, max_pixels: int) -> None:
    if size is None:
        return  # a damaged header: the plugin says so
    width, height = size
    if width < 1 or height < 1:
        raise UnreadableImage("no pixels")
    if width * height > max_pixels:
        raise UnreadableImage(
            f"too many pixels: {width} x {height} = {width * height:,}, the limit is {max_pixels:,}; decoding needs "
            f"about {max(1, 7 * width * height >> 20):,} MiB (raise max_pixels to allow it)",
            status="refused",
        )


def _upright(
    picture: Pixels | Image.Image, size: tuple[int, int], orientation: int, notes: tuple[str, ...]
) -> Decoded:
    """Turn a picture and `size` = (width, height) by the EXIF orientation, and note an odd aspect."""
    width, height = size
    if orientation in _TURNS:
        picture = numpy.ascontiguousarray(_TURNS[orientation](numpy.asarray(picture)))
        notes = (*notes, f"turned by EXIF orientation {orientation}")
    if max(size) >= ODD_ASPECT * min(size) or min(size) < TINY_SIDE:
        notes = (*notes, f"odd aspect ({width} x {height})")
    return Decoded(picture, (height, width) if orientation < 5 else (width, height), notes)


def _frame_note(image: ImageFile.ImageFile) -> tuple[str, ...]:
    if not getattr(image, "is_animated", False):
        return ()
    try:
        frames = _pages(image) if image.format == "TIFF" else str(getattr(image, "n_frames", "several"))
    except Exception:  # a damaged later frame; the first was decoded
        frames = "several"
    return (f"first of {frames} frames",)


def _pages(image: ImageFile.ImageFile) -> str:
    """Pages of a TIFF, counted up to a bound: a small file can hold, or claim, a million."""
    for page in range(1, MAX_PAGES):
        try:
            image.seek(page)
        except EOFError:
            return str(page)
    return f"{MAX_PAGES} or more"


def _complaint(error: Exception) -> str:
    """A decoder's error as a few words for the photo's row."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    lowered = text.lower()
    if "truncated" in lowered or "not enough image data" in lowered or "unrecognized data stream" in lowered:
        return "truncated" if "truncated" in lowered else "damaged"
    return f"damaged ({text[:80]})"


_silence_lock = threading.Lock()
_silence_depth = 0


@contextmanager
def silent_pillow() -> Iterator[None]:
    """Ignore Pillow's warnings while any thread decodes, and nobody else's.

    One entry is put into the list of warning filters by the first decoder and taken out by the last; unlike
    `warnings.catch_warnings`, threads that overlap cannot leave it there or lose another's entry.
    """
    global _silence_depth
    with _silence_lock:
        _silence_depth += 1
        if _FILTER not in warnings.filters:
            _filters().insert(0, _FILTER)
    try:
        yield
    finally:
        with _silence_lock:
            _silence_depth -= 1
            if _silence_depth == 0 and _FILTER in warnings.filters:
                _filters().remove(_FILTER)


def _filters() -> list[Any]:
    """The live list of warning filters, which its stub calls a sequence."""
    return warnings.filters  # type: ignore[return-value]
