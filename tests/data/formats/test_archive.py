"""Zips: nothing outside the folder, no bomb, and the layout inside is read."""

from __future__ import annotations

import contextlib
import stat
import zipfile
from pathlib import Path

import pytest

from fewsight.data.formats.archive import unpack_zip
from fewsight.data.layouts import read_layout
from fewsight.errors import InvalidInput


@pytest.fixture
def pack(tmp_path):
    """`pack({"a/1.jpg": b"..."})`: a zip with these files."""

    def make(files: dict[str | zipfile.ZipInfo, bytes], **options) -> Path:
        path = tmp_path / "photos.zip"
        with zipfile.ZipFile(path, "w", **options) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path

    return make


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out" / "inner").mkdir(parents=True)
    return tmp_path / "out" / "inner"


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_files_come_out_as_they_went_in(pack, folder):
    unpack_zip(pack({"a/1.jpg": b"1", "b/./2.jpg": b"2", "__MACOSX/a/._1.jpg": b"x", "empty/": b""}), folder)
    assert everything(folder) == {"a/1.jpg", "b/2.jpg"}
    assert (folder / "a" / "1.jpg").read_bytes() == b"1"


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "a/../../evil.jpg", "/evil.jpg", "..\\evil.jpg", "C:\\evil.jpg", "C:evil.jpg"]
)
def test_nothing_is_written_outside(pack, folder, name):
    with pytest.raises(InvalidInput, match="leads out of the folder"):
        unpack_zip(pack({"a/1.jpg": b"1", name: b"2"}), folder)
    assert everything(folder.parent) == set()


def test_links_are_left_out(pack, folder):
    link = zipfile.ZipInfo("a/link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    unpack_zip(pack({link: b"/etc/passwd", "a/1.jpg": b"1"}), folder)
    assert everything(folder) == {"a/1.jpg"}


def test_bombs_are_refused_before_and_while_unpacking(pack, folder):
    bomb = pack({"a.bmp": bytes(30 << 20)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InvalidInput, match="grows 200 times"):
        unpack_zip(bomb, folder)
    with pytest.raises(InvalidInput, match="would take"):
        unpack_zip(pack({"a": bytes(2000), "b": bytes(2000)}), folder, max_bytes=3999)
    with pytest.raises(InvalidInput, match="holds 3 files"):
        unpack_zip(pack({"a": b"", "b": b"", "c": b""}), folder, max_files=2)
    assert everything(folder) == set()


def test_a_zip_that_lies_about_its_sizes(pack, folder):
    path = pack({"a.bin": bytes(200_000)}, compression=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = content.index(signature) + place
        content[at : at + 4] = (10).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(InvalidInput, match=r"photos\.zip"):
        unpack_zip(path, folder, max_bytes=1000)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 1000


def test_damage_and_passwords(pack, folder, tmp_path):
    path = pack({"a.jpg": b"1" * 500})
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\1\2") + 8
    content[at] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InvalidInput, match="password"):
        unpack_zip(path, folder)
    for broken in (b"", b"PK\3\4nothing", bytes(content[:300])):
        path.write_bytes(broken)
        with pytest.raises(InvalidInput, match="cannot be unpacked"):
            unpack_zip(path, folder)
    with pytest.raises(InvalidInput, match="cannot be unpacked"):
        unpack_zip(tmp_path / "none.zip", folder)


@pytest.mark.parametrize("around", ["", "DATA/"])
def test_the_layout_inside_is_read(pack, around, picture, encoded):
    reading = read_layout(pack({f"{around}{name}/1.jpg": encoded(picture()) for name in ("cat", "dog")}))
    assert reading.collection.classes == ("cat", "dog")
    assert Path(reading.collection.path(0)).is_file()


def test_one_class_stays_one_class(pack):
    assert read_layout(pack({"cat/1.jpg": b"x", "cat/2.jpg": b"x"})).collection.classes == ("cat",)


def test_any_damage_is_an_error_for_people(pack, folder):
    import numpy

    whole = pack({"a/1.jpg": b"1" * 300, "b.txt": b"2" * 50}, compression=zipfile.ZIP_DEFLATED).read_bytes()
    for seed in range(200):
        draw = numpy.random.default_rng(seed)
        content = bytearray(whole)
        for _ in range(3):
            content[draw.integers(len(content))] ^= 1 << int(draw.integers(8))
        path = folder.parent / "damaged.zip"
        path.write_bytes(bytes(content))
        with contextlib.suppress(InvalidInput):
            unpack_zip(path, folder)
    assert everything(folder.parent) - {"damaged.zip"} == {f"inner/{name}" for name in everything(folder)}
