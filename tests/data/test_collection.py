"""Columns that behave like a list of photos, and stay small."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewsight.data.collection import Collection, NameColumn, Row
from fewsight.errors import InvalidInput

ROWS = [
    Row(b"b/2.jpg", ("b",), None, "g1", "train"),
    Row(b"\xff.jpg", ("a", "b"), b"m/\xff.png", None, "val"),
    Row(b"c.jpg", (), None, "g1", None),
    Row(b"a10.jpg", ("a10",), None, "g2", "train"),
]


def test_rows_come_back_as_photos():
    photos = list(Collection.from_rows("/data", ROWS))
    assert [photo.labels for photo in photos] == [("b",), ("a", "b"), (), ("a10",)]
    assert [photo.group for photo in photos] == ["g1", None, "g1", "g2"]
    assert [photo.split for photo in photos] == ["train", "val", None, "train"]
    assert photos[1].source == Path("/data/\udcff.jpg")
    assert photos[1].mask == Path("/data/m/\udcff.png")
    assert photos[1].file == "\\xff.jpg"
    assert photos[0].mask is None


def test_classes_are_in_natural_order_or_as_given():
    assert Collection.from_rows("/", ROWS).classes == ("a", "a10", "b")
    assert Collection.from_rows("/", ROWS, classes=["b", "a10", "z", "a"]).classes == ("b", "a10", "z", "a")
    with pytest.raises(InvalidInput, match="'a10'"):
        Collection.from_rows("/", ROWS, classes=["a", "b"])
    with pytest.raises(InvalidInput, match="twice"):
        Collection.from_rows("/", ROWS, classes=["a", "a"])


def test_by_class_membership_counts_targets():
    collection = Collection.from_rows("/", ROWS, classes=["a", "b", "a10", "none"])
    assert [row.tolist() for row in collection.by_class()] == [[1], [0, 1], [3], []]
    assert collection.counts().tolist() == [1, 2, 1, 0]
    assert collection.membership().astype(int).tolist() == [
        [0, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 1, 0],
    ]
    assert collection.labelled().tolist() == [True, True, False, True]
    with pytest.raises(InvalidInput, match="2 labels"):
        collection.targets()
    assert collection.select([0, 2, 3]).targets().tolist() == [1, -1, 2]
    assert collection.without_empty_classes().classes == ("a", "b", "a10")
    assert collection.select([3]).without_empty_classes()[0].labels == ("a10",)


@given(st.lists(st.integers(-4, 3), max_size=8))
def test_select_is_a_list_of_photos(index):
    collection = Collection.from_rows("/data", ROWS)
    assert list(collection.select(index)) == [collection[n] for n in index]


def test_select_by_bool_and_split():
    collection = Collection.from_rows("/data", ROWS)
    assert [photo.file for photo in collection.select(collection.in_split("train"))] == ["b/2.jpg", "a10.jpg"]
    for wrong in ([4], [-5], numpy.zeros(3, dtype=bool)):
        with pytest.raises(InvalidInput, match="index"):
            collection.select(wrong)
    with pytest.raises(InvalidInput, match="train, val"):
        collection.in_split("test")
    with pytest.raises(IndexError):
        collection[4]


def test_nothing_is_fine():
    empty = Collection.from_rows("/data", [])
    assert len(empty) == 0
    assert list(empty) == []
    assert empty.by_class() == ()
    assert empty.membership().shape == (0, 0)
    assert empty.targets().shape == (0,)
    assert len(empty.select([])) == 0
    assert len(empty.without_empty_classes()) == 0


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_name_columns(names):
    column = NameColumn.from_names(names)
    assert list(column) == names
    assert list(column.select(numpy.arange(len(names))[::-1])) == names[::-1]
    assert column.lengths().tolist() == [len(name) for name in names]


def test_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    collection = Collection.from_paths(["a.jpg", tmp_path / "b" / "c.jpg"], ["x", "y"])
    assert [photo.source for photo in collection] == [tmp_path / "a.jpg", tmp_path / "b" / "c.jpg"]
    assert collection.targets().tolist() == [0, 1]
    with pytest.raises(InvalidInput, match="1 labels for 2"):
        Collection.from_paths(["a", "b"], ["x"])


def test_a_hundred_thousand_photos_are_small_and_survive_a_pickle():
    rows = (Row(b"class%d/station/IMG_%07d.jpg" % (n % 100, n), (f"class{n % 100}",)) for n in range(100_000))
    collection = Collection.from_rows("/data", rows)
    content = pickle.dumps(collection, protocol=5)
    assert len(content) < 70 * 100_000  # bytes a photo: 29 of name, 8 + 8 offsets, 4 + 4 + 4 codes
    again = pickle.loads(content)
    assert again[99_999] == collection[99_999]
    assert len(again.by_class()[99]) == 1000
