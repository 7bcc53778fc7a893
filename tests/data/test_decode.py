"""Decoding: every kind of file becomes upright RGB or a reason (the cases of a photo folder met in the wild)."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy
import pytest
from PIL import Image, ImageCms, ImageFile, TiffImagePlugin

from fewsight.data.decode import MAX_PIXELS, decode, decode_bytes, decode_raw
from fewsight.errors import InvalidInput, UnreadableImage


def reason(content: bytes, suffix: str = "", **options) -> tuple[str, str]:
    with pytest.raises(UnreadableImage) as caught:
        decode_bytes(content, suffix=suffix, **options)
    return caught.value.status, str(caught.value)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes of pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_each_allowed_format_gives_the_pixels_of_pillow(kind, picture, encoded):
    content = encoded(picture(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    decoded = decode_bytes(content)
    assert decoded.image.dtype == numpy.uint8
    assert numpy.array_equal(decoded.image, numpy.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
    assert decoded.original_size == (96, 128)
    assert decoded.notes == ()
    assert not decoded.suspicious


def test_empty_html_and_noise_are_no_images():
    assert reason(b"") == ("unreadable", "empty")
    assert reason(b"<!DOCTYPE html><html>404</html>") == ("unreadable", "not an image")
    assert reason(numpy.random.default_rng(0).bytes(500)) == ("unreadable", "not an image")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"%PDF-1.7 ...", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?>\n<!-- " + b"x" * 200 + b" --><svg/>", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
        (b"8BPS\0\1", "PSD"),
    ],
)
def test_other_formats_are_refused_by_name(content, name):
    status, note = reason(content)
    assert status == "refused"
    assert name in note


def test_camera_raw_is_refused_although_it_is_tiff(picture, encoded):
    assert reason(encoded(picture(), "TIFF"), ".NEF")[0] == "refused"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_is_unreadable_never_grey(kind, share, picture, encoded):
    options = {"compression": "tiff_deflate"} if kind == "TIFF" else {}
    content = encoded(picture(), kind, **options)
    status, _ = reason(content[: int(len(content) * share)])
    assert status == "unreadable"
    if kind == "JPEG" and share > 0.5:
        assert reason(content[: int(len(content) * share)]) == ("unreadable", "truncated")


def test_truncated_stays_unreadable_where_a_program_allows_it(picture, encoded, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    content = encoded(picture())
    assert reason(content[: len(content) // 2]) == ("unreadable", "truncated")


def test_a_flipped_byte_in_a_png_is_a_reason(picture, encoded):
    content = bytearray(encoded(picture(), "PNG"))
    content[len(content) // 2] ^= 0xFF
    assert reason(bytes(content))[0] == "unreadable"


def test_a_wrong_suffix_is_noted_and_any_spelling_of_the_right_one_is_not(picture, encoded):
    png = encoded(picture(), "PNG")
    assert decode_bytes(png, suffix=".jpg").notes == ("PNG named .jpg",)
    for suffix in (".JPG", ".jpeg", ".Jpg"):
        assert decode_bytes(encoded(picture()), suffix=suffix).notes == ()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_undone(kind, orientation, encoded):
    upright = numpy.zeros((40, 64, 3), dtype=numpy.uint8)
    upright[:16, :16], upright[:16, -16:], upright[-16:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    # what a camera stores: the inverse of the turn that the tag asks for
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(inverse[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    decoded = decode_bytes(encoded(stored, kind, exif=exif.tobytes() if kind != "TIFF" else exif, **options))
    assert decoded.original_size == (40, 64)
    # corners are flat, so JPEG errs by a few levels only
    assert numpy.abs(decoded.image[::39, ::63].astype(int) - upright[::39, ::63]).max() <= 8
    if kind != "TIFF":
        assert any("EXIF" in note for note in decoded.notes) == (orientation > 1)
    needed = decode_bytes(
        encoded(stored, kind, exif=exif.tobytes() if kind != "TIFF" else exif), needed=(5, 8)
    )
    assert needed.original_size == (40, 64)
    assert needed.image.shape[0] < needed.image.shape[1]


def test_pillow_images_are_turned_too_and_left_alone(picture, encoded):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encoded(picture(), exif=exif.tobytes())))
    before = image.size
    assert decode(image).original_size == (128, 96)
    assert image.size == before


@pytest.mark.parametrize("source", ["L", "1", "LA", "P"])
def test_grey_and_palette_become_rgb(source, picture, encoded):
    image = picture().convert(source)
    decoded = decode_bytes(encoded(image, "PNG"))
    assert decoded.image.shape == (96, 128, 3)
    if source in ("L", "LA"):
        assert numpy.array_equal(decoded.image[:, :, 0], numpy.asarray(picture().convert("L")))


def test_transparency_is_composed_on_white(encoded):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 255, 255))
    image.putpixel((1, 0), (0, 0, 0, 128))
    decoded = decode_bytes(encoded(image, "PNG"))
    assert decoded.image[7, 7].tolist() == [255, 255, 255]
    assert decoded.image[0, 0].tolist() == [0, 0, 255]
    assert abs(int(decoded.image[0, 1, 0]) - 127) <= 1
    assert decoded.notes == ("transparency composed on white",)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 200, 10, 10])
    content = encoded(palette, "PNG", transparency=1)
    assert decode_bytes(content).image[0, 0].tolist() == [255, 255, 255]


def test_opaque_alpha_needs_no_note(picture, encoded):
    assert decode_bytes(encoded(picture().convert("RGBA"), "PNG")).notes == ()


def test_cmyk_jpeg_by_rule(encoded, picture):
    decoded = decode_bytes(encoded(picture().convert("CMYK"), quality=95))
    # the plain rule is exact up to JPEG's own loss
    assert numpy.abs(decoded.image.astype(int) - numpy.asarray(picture()).astype(int)).mean() < 6
    assert decoded.notes == ("CMYK converted without a profile",)
    of_another_space = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (b"no profile" * 20, of_another_space):
        damaged = decode_bytes(encoded(picture().convert("CMYK"), icc_profile=profile))
        assert damaged.notes == ("CMYK converted without a profile",)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind, encoded):
    ramp = numpy.linspace(0, 65535, 256 * 64).astype(numpy.uint16).reshape(64, 256)
    decoded = decode_bytes(encoded(Image.fromarray(ramp), kind))
    assert numpy.abs(decoded.image[:, :, 0] - ramp / 257).max() <= 1
    assert decoded.notes == ("16-bit grey scaled by 65535",)
    twelve = decode_bytes(encoded(Image.fromarray(ramp // 16), kind))
    assert numpy.abs(twelve.image[:, :, 0] - (ramp // 16).astype(float) * 255 / 4095).max() <= 1
    assert twelve.notes == ("12-bit grey in 16 bits scaled by 4095",)


def test_declared_bits_win(encoded):
    dark = Image.fromarray(numpy.full((8, 8), 500, dtype=numpy.uint16))
    content = encoded(dark, "PNG")
    cut = content.index(b"IDAT") - 4
    chunk = b"sBIT\x0c"
    declared = (
        content[:cut] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[cut:]
    )
    assert decode_bytes(declared).notes == ("12-bit grey (declared) scaled by 4095",)
    assert decode_bytes(declared).image[0, 0, 0] == round(500 * 255 / 4095)


def test_float_tiff_is_scaled_and_nan_does_not_spread(encoded):
    values = numpy.linspace(0, 1, 64 * 64, dtype=numpy.float32).reshape(64, 64)
    decoded = decode_bytes(encoded(Image.fromarray(values), "TIFF"))
    assert numpy.abs(decoded.image[:, :, 0] - values * 255).max() <= 0.5 + 1e-3
    values[3, 4] = numpy.nan
    decoded = decode_bytes(encoded(Image.fromarray(values), "TIFF"))
    assert decoded.image[3, 4, 0] == 0
    assert "1 pixels not finite" in decoded.notes[0]
    wide = decode_bytes(encoded(Image.fromarray(values * 5000 - 100), "TIFF"))
    assert wide.image.min() == 0
    assert wide.image.max() == 255
    assert reason(encoded(Image.fromarray(values * numpy.nan), "TIFF")) == ("unreadable", "no finite pixels")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_of_several_frames(kind, picture, encoded):
    frames = [picture(seed) for seed in range(3)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    decoded = decode_bytes(content)
    assert "first of 3 frames" in decoded.notes
    first = numpy.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    assert numpy.abs(decoded.image - first).max() == 0


def test_pages_are_counted_up_to_a_bound(encoded):
    page = Image.new("L", (8, 8))
    content = encoded(page, "TIFF", save_all=True, append_images=[page] * 120)
    assert decode_bytes(content).notes == ("first of 100 or more frames",)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (20000, 20)])
def test_odd_aspects_are_flagged(size, encoded):
    decoded = decode_bytes(encoded(Image.new("RGB", size, "red"), "PNG"))
    assert decoded.notes == (f"odd aspect ({size[0]} x {size[1]})",)


def test_too_many_pixels_are_refused_before_decoding(encoded):
    assert reason(png_header(20000, 20000)[:33])[0] == "refused"  # nothing but the header
    status, note = reason(png_header(20000, 20000))
    assert status == "refused"
    assert note.startswith("too many pixels: 20000 x 20000")
    assert "MiB" in note
    image = Image.new("RGB", (60, 50))
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"):
        assert reason(encoded(image, kind), max_pixels=2999)[0] == "refused"
        assert decode_bytes(encoded(image, kind), max_pixels=3000).original_size == (50, 60)
    with pytest.raises(UnreadableImage, match="too many pixels"):
        decode(image, max_pixels=2999)


def webp_header(width: int, height: int) -> bytes:
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def test_bombs_take_no_memory(tmp_path):
    """Headers that claim gigabytes are refused in a process that may not take them."""
    (tmp_path / "bomb.png").write_bytes(png_header(20000, 20000))
    (tmp_path / "bomb.webp").write_bytes(webp_header(16000, 16000))
    code = """
import pathlib, sys
from fewsight.data.decode import decode
from fewsight.errors import UnreadableImage
def peak():  # not ru_maxrss: that of the parent counts in it
    return int(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
for path in sys.argv[1:]:
    try:
        decode(path)
    except UnreadableImage as error:
        assert error.status == "refused", error
    else:
        raise SystemExit("decoded")
print(peak() - before)
"""
    paths = [str(tmp_path / name) for name in ("bomb.png", "bomb.webp")]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) < 20_000  # KiB; the pictures would take over a million


def test_big_jpegs_are_decoded_at_reduced_scale(picture, encoded):
    content = encoded(picture(0, 600, 800))
    reduced = decode_bytes(content, needed=(64, 64))
    assert reduced.image.shape == (75, 100, 3)  # the smallest that is not below what is needed
    assert decode_bytes(content, needed=(76, 64)).image.shape == (150, 200, 3)
    assert decode_bytes(content, needed=(75, 101)).image.shape == (150, 200, 3)
    assert reduced.original_size == (600, 800)
    whole = numpy.asarray(
        Image.fromarray(decode_bytes(content).image).resize((100, 75), Image.Resampling.BOX)
    )
    small = numpy.asarray(Image.fromarray(reduced.image).resize((100, 75), Image.Resampling.BOX))
    assert numpy.abs(whole.astype(int) - small).mean() < 2  # grey levels: JPEG's own scaling is a low-pass
    for needed in [(50, 50), (300, 10), (300, 401), (600, 800), (7, 7)]:
        height, width = decode_bytes(content, needed=needed).image.shape[:2]
        assert height >= min(600, needed[0])
        assert width >= min(800, needed[1])


def test_arrays(picture):
    array = numpy.asarray(picture())
    assert numpy.array_equal(decode(array).image, array)
    assert decode(array[:, :, 0]).image.shape == (96, 128, 3)
    assert numpy.array_equal(decode(array[:, :, :1]).image[:, :, 2], array[:, :, 0])
    for wrong in (array.astype(float), array[None], array[:0], array[:, :, :2]):
        with pytest.raises(InvalidInput, match="image"):
            decode(wrong)


def test_open_files_and_paths(tmp_path, picture, encoded):
    content = encoded(picture())
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    expected = decode_bytes(content).image
    assert numpy.array_equal(decode(path).image, expected)
    assert numpy.array_equal(decode(str(path)).image, expected)
    assert numpy.array_equal(decode(io.BytesIO(content)).image, expected)


def test_pillow_is_left_as_it_was_and_its_warnings_are_not_heard(encoded, picture):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[33432] = "x" * 50  # the last tag: those before it are read
    content = bytearray(encoded(picture(), "TIFF", tiffinfo=tags))
    entry = content.index(struct.pack("<HHI", 33432, 2, 51)) + 8
    content[entry : entry + 4] = struct.pack("<I", 10**6)  # a tag that points beyond the file
    with pytest.warns(UserWarning, match="Truncated File Read"):
        Image.open(io.BytesIO(bytes(content))).load()
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    decode_bytes(bytes(content))  # warnings are errors here
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before


def test_threads_leave_the_warning_filters_as_they_were(encoded, picture):
    before = list(warnings.filters)
    content = encoded(picture())
    threads = [threading.Thread(target=lambda: [decode_bytes(content) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_a_lower_bound_of_the_program_is_kept(picture, encoded, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImage, match="MAX_IMAGE_PIXELS") as caught:
        decode_bytes(encoded(picture(), "TIFF"))
    assert caught.value.status == "refused"


def test_raw_decoding_keeps_palette_indices(tmp_path):
    image = Image.new("P", (4, 3), 7)
    image.putpalette([k for k in range(256) for _ in range(3)])
    image.save(tmp_path / "m.png")
    assert numpy.asarray(decode_raw(tmp_path / "m.png")).tolist() == [[7] * 4] * 3


def test_the_limit_is_pillows_own():
    error_bound = 2 * 89_478_485  # Pillow warns at half of it
    assert error_bound == MAX_PIXELS


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_fifo_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadableImage, match="not a regular file"):
        decode(tmp_path / "pipe.jpg")
