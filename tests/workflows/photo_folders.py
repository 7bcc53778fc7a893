"""Small folders for the tests of the verbs: striped, dotted and plain pictures, and every kind of bad file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy
from PIL import Image

CLASSES = ("stripes", "dots", "plain")


def picture(kind: str, seed: int, side: int = 72) -> Image.Image:
    """A picture whose class is easy to see for any pretrained network."""
    generator = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[:side, :side]
    colour = generator.integers(90, 166, 3)
    if kind == "stripes":
        pattern = ((x + y * generator.uniform(-0.3, 0.3)) // 6 % 2) * 2 - 1
    elif kind == "dots":
        pattern = (((x % 18 - 9) ** 2 + (y % 18 - 9) ** 2) < 30) * 2 - 1
    else:
        pattern = numpy.zeros((side, side))
    pixels = colour + 80 * pattern[..., None] + generator.normal(0, 6, (side, side, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8))


def write_labelled(folder: Path, shots: int = 3, classes: tuple[str, ...] = CLASSES) -> Path:
    """FOLDER/CLASS/n.png."""
    for number, kind in enumerate(classes):
        (folder / kind).mkdir(parents=True)
        for shot in range(shots):
            picture(kind, 100 * number + shot).save(folder / kind / f"{shot}.png")
    return folder


def write_pile(folder: Path, each: int = 4) -> Path:
    """A flat pile, `KIND-n.png`."""
    folder.mkdir(parents=True)
    for number, kind in enumerate(CLASSES):
        for shot in range(each):
            picture(kind, 5000 + 100 * number + shot).save(folder / f"{kind}-{shot}.png")
    return folder


def write_bad_files(folder: Path) -> dict[bytes, str]:
    """Every kind of file that must not stop a run: name -> expected status."""
    good = folder / "good.jpg"
    picture("dots", 9000).save(good, quality=90)
    content = good.read_bytes()
    files: dict[bytes, tuple[bytes, str]] = {
        b"empty.jpg": (b"", "unreadable"),
        b"page.jpg": (b"<html><body>not found</body></html>", "unreadable"),
        b"cut.jpg": (content[: len(content) // 2], "unreadable"),
        b"huge.png": (_png_header(20_000, 20_000), "refused"),
        b"script.svg.png": (b"<svg onload='alert(1)'/>", "refused"),
        b"with space, \"quote\" & 'tick'.jpg": (content, "ok"),
        b"two\nlines.jpg": (content, "ok"),
        "рысь 山猫 🐈.jpg".encode(): (content, "ok"),
        b"<script>alert(1)<script>.jpg": (content, "ok"),
        b"not-utf8-\xff\xfe.jpg": (content, "ok"),
        b"UPPER.JPG": (content, "ok"),
    }
    for name, (data, _) in files.items():
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:  # noqa: PTH118, PTH123
            file.write(data)
    Image.new("RGB", (1, 1), (200, 30, 30)).save(folder / "one pixel.png")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    expected = {name: status for name, (_, status) in files.items()}
    return expected | {b"good.jpg": "ok", b"one pixel.png": "ok", b"gone.jpg": "unreadable"}


def _png_header(width: int, height: int) -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )
