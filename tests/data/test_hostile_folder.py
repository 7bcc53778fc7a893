"""One folder that holds every kind of bad file at once: each has its row, in order, and the good ones their pixels."""

from __future__ import annotations

import os
import struct
import zlib

import numpy
import pytest
from PIL import Image

from fewsight.data.collection import Collection, Row
from fewsight.data.layouts import read_layout
from fewsight.data.loading import photos
from fewsight.data.transform import Transform

SMALL = Transform(size=(16, 16))


@pytest.fixture
def hostile(tmp_path, write, picture, encoded):
    """The folder, and what is expected of each file: status and the start of the note."""
    good, png = encoded(picture()), encoded(picture(), "PNG")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 1
    zeroed = bytearray(encoded(picture(0, 375, 500)))
    zeroed[len(zeroed) // 2 : len(zeroed) // 2 + 200] = bytes(200)
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + head
        + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = numpy.linspace(0, 4095, 64 * 64).astype(numpy.uint16).reshape(64, 64)
    files = {
        "01 zero.jpg": (b"", "unreadable", "empty"),
        "02 html.jpg": (b"\n <!doctype html><p>", "unreadable", "not an image"),
        "03 cut.jpg": (good[: len(good) // 2], "unreadable", "truncated"),
        "04 flipped.png": (bytes(flipped), "unreadable", ""),
        "05 middle.jpg": (bytes(zeroed), "suspicious", "damaged"),
        "06 wrong.jpg": (png, "ok", "PNG named .jpg"),
        "07 upper.JPG": (good, "ok", ""),
        "08 turned.jpg": (encoded(picture(), exif=exif.tobytes()), "ok", "turned by EXIF orientation 6"),
        "09 cmyk.jpg": (encoded(picture().convert("CMYK")), "ok", "CMYK"),
        "10 deep.png": (encoded(Image.fromarray(deep), "PNG"), "ok", "12-bit grey"),
        "11 nan.tif": (
            encoded(Image.fromarray(deep * numpy.float32("nan")), "TIFF"),
            "unreadable",
            "no finite pixels",
        ),
        "12 alpha.png": (encoded(Image.new("RGBA", (9, 9)), "PNG"), "ok", "transparency composed on white"),
        "13 moving.gif": (
            encoded(picture(), "GIF", save_all=True, append_images=[picture(1)]),
            "ok",
            "first of 2 frames",
        ),
        "14 line.png": (encoded(Image.new("L", (5000, 1)), "PNG"), "ok", "odd aspect"),
        "15 bomb.png": (bomb, "refused", "too many pixels"),
        "17 page.pdf": (b"%PDF-1.7", "refused", "format not allowed (PDF)"),
        "17 drawing.svg": (b"<svg/>", "refused", "format not allowed (SVG)"),
        "17 print.eps": (b"%!PS-Adobe", "refused", "format not allowed"),
        "21 a\nb'\",<script>\U0001f98a.jpg": (good, "ok", ""),
        "21 same.jpg": (good, "ok", ""),
        "21 same.png": (png, "ok", ""),
        "21 \udcff.jpg": (good, "ok", "name is not UTF-8"),
    }
    folder = tmp_path / "DATA" / "class"
    for name, (content, _, _) in files.items():
        write(folder / name, content)
    expected = {name: words for name, (_, *words) in files.items()}
    (folder / "19 broken.jpg").symlink_to("nowhere")
    (folder / "19 circle.jpg").symlink_to("19 circle.jpg")
    os.mkfifo(folder / "19 pipe.jpg")
    (folder / "19 device.jpg").symlink_to("/dev/zero")
    (folder / "19 outside.jpg").symlink_to(write(tmp_path / "outside.jpg"))
    expected |= {
        "19 broken.jpg": ["unreadable", "broken link"],
        "19 circle.jpg": ["unreadable", "link points in a circle"],
        "19 pipe.jpg": ["unreadable", "not a regular file (a pipe)"],
        "19 device.jpg": ["refused", "link leaves the folder"],
        "19 outside.jpg": ["refused", "link leaves the folder"],
    }
    return folder.parent, expected


@pytest.mark.parametrize("workers", [0, 3])
def test_every_file_has_its_row(hostile, workers):
    root, expected = hostile
    collection = read_layout(root).collection
    assert sorted(os.fsdecode(name).partition("/")[2] for name in collection.files) == sorted(expected)
    outcomes = [o for batch in photos(collection, SMALL, 5, workers) for o in batch.outcomes]
    assert [outcome.index for outcome in outcomes] == list(range(len(collection)))
    for outcome in outcomes:
        status, note = expected[os.fsdecode(collection.files[outcome.index]).partition("/")[2]]
        assert outcome.status == status, collection.file(outcome.index)
        assert outcome.note.startswith(note), collection.file(outcome.index)


def test_a_file_that_vanishes_between_listing_and_reading(tmp_path, write):
    for name in ("1.jpg", "2.jpg"):
        write(tmp_path / "cat" / name)
    collection = read_layout(tmp_path).collection
    (tmp_path / "cat" / "1.jpg").unlink()
    (batch,) = photos(collection, SMALL)
    assert [(o.status, o.note) for o in batch.outcomes] == [("unreadable", "file not found"), ("ok", "")]


def test_ten_thousand_classes_and_no_photos():
    rows = [Row(b"%d.jpg" % n, (f"class {n}",)) for n in range(10_001)]
    collection = Collection.from_rows("/data", rows)
    assert len(collection.classes) == 10_001
    assert [len(row) for row in collection.by_class()] == [1] * 10_001
    assert collection.targets()[collection.by_class()[10_000][0]] == 10_000
    assert list(photos(collection.select([]), SMALL)) == []
