"""The facts that `doctor` tells, on a folder where everything is wrong once."""

from __future__ import annotations

import pytest
from PIL import Image

from fewsight.data.inspection import Pair, inspect_photos
from fewsight.data.layouts import read_layout


@pytest.fixture
def data(tmp_path, write, picture, encoded):
    root = tmp_path / "DATA"
    for n in range(4):
        write(root / "train" / "cat" / "s1" / f"{n}.jpg", encoded(picture(n)))
    write(root / "train" / "Cat" / "s2" / "a.jpg", encoded(picture(10)))
    write(root / "train" / "Cat" / "s2" / "cat0.jpg", encoded(picture(0)))  # a conflict
    write(root / "train" / "cat" / "s1" / "copy.jpg", encoded(picture(1)))  # a duplicate
    write(root / "test" / "cat" / "s1" / "leak.jpg", encoded(picture(2)))  # a leak, and a shared group
    write(root / "test" / "cat" / "empty.jpg", b"")
    write(root / "test" / "cat" / "cut.jpg", encoded(picture(5))[:-2] + bytes(5))
    write(root / "test" / "cat" / "small.png", encoded(picture(6, 20, 40), "PNG"))
    write(root / "test" / "cat" / "alpha.png", encoded(Image.new("RGBA", (64, 64), (1, 2, 3, 4)), "PNG"))
    write(root / ".DS_Store", b"x")
    return root


def test_each_fault_is_found_once(data):
    found = inspect_photos(read_layout(data), workers=2)
    assert found.photos == 12
    assert found.classes == {"Cat": 2, "cat": 10}
    assert found.imbalance == 5
    assert found.suffixes == {".jpg": 10, ".png": 2}
    assert found.ignored == {".DS_Store": 1}
    assert len(found.clashes) == 1
    assert [(f.file, f.note) for f in found.unreadable] == [("test/cat/empty.jpg", "empty")]
    assert [f.file for f in found.suspicious] == ["test/cat/cut.jpg"]
    assert [f.file for f in found.noted] == ["test/cat/alpha.png"]
    assert found.tiny == (("test/cat/small.png", 40, 20),)
    assert found.smallest == (40, 20)
    assert found.largest == (128, 96)
    assert found.shared_groups == ("s1",)
    same = ("cat",)
    assert Pair("train/cat/s1/1.jpg", "train/cat/s1/copy.jpg", same, same, True) in found.duplicates
    assert {(p.first, p.second) for p in found.conflicts} == {("train/Cat/s2/cat0.jpg", "train/cat/s1/0.jpg")}
    assert {(p.first, p.second) for p in found.leaks} == {("test/cat/s1/leak.jpg", "train/cat/s1/2.jpg")}
    assert found.in_pile == ()


def test_the_pile(data, tmp_path, write, picture, encoded):
    write(tmp_path / "PILE" / "x.png", encoded(picture(3), "PNG"))
    write(tmp_path / "PILE" / "y.jpg", encoded(picture(99)))
    write(tmp_path / "PILE" / "z.jpg", (data / "train" / "cat" / "s1" / "3.jpg").read_bytes())
    found = inspect_photos(read_layout(data), read_layout(tmp_path / "PILE", labels="none"))
    assert ("train/cat/s1/3.jpg", "z.jpg", True) in [(p.first, p.second, p.exact) for p in found.in_pile]
    assert "y.jpg" not in [p.second for p in found.in_pile]


def test_an_empty_folder(tmp_path):
    found = inspect_photos(read_layout(tmp_path, labels="none"))
    assert (found.photos, found.imbalance, found.smallest) == (0, 1.0, None)
