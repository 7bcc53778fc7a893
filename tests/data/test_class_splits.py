"""Splits of classes: packaged lists, files, held-out classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewsight.data.class_splits import held_out_split, photos_of_split, split_class_names, split_classes
from fewsight.data.collection import Collection, Row
from fewsight.errors import InvalidInput


@pytest.mark.parametrize(
    ("name", "counts"),
    [("omniglot_vinyals", (1028, 172, 423)), ("cifar_fs", (64, 16, 20)), ("mini_imagenet", (64, 16, 20))],
)
def test_packaged_lists_are_disjoint_and_complete(name: str, counts: tuple[int, int, int]) -> None:
    split = split_class_names(name)
    assert tuple(len(split[part]) for part in ("train", "val", "test")) == counts
    names = [name for part in split.values() for name in part]
    assert len(set(names)) == len(names)


def test_classes_are_found_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps({"splits": {"train": ["fox", "lynx"], "valid": [["birds", "owl"]], "test": []}})
    )
    collection = Collection.from_rows(tmp_path, [Row(b"1.jpg", ("owl",)), Row(b"2.jpg", ("fox",))])
    found = split_classes(collection, split_class_names(path))
    assert {part: [collection.classes[k] for k in classes] for part, classes in found.items()} == {
        "train": ["fox"],
        "val": ["owl"],
        "test": [],
    }
    other = Collection.from_rows(tmp_path, [Row(b"1.jpg", ("cat",))])
    with pytest.raises(InvalidInput, match="'fox', the data 'cat'"):
        split_classes(other, split_class_names(path))


def test_damaged_files_and_unknown_names_are_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("{")
    with pytest.raises(InvalidInput, match="not JSON"):
        split_class_names(path)
    path.write_text("[]")
    with pytest.raises(InvalidInput, match="no class split"):
        split_class_names(path)
    with pytest.raises(InvalidInput, match="nonsense"):
        split_class_names("nonsense")


def test_held_out_classes_are_a_function_of_the_seed() -> None:
    split = held_out_split(20, 0.25, seed=3)
    assert (len(split["train"]), len(split["val"])) == (15, 5)
    assert sorted(split["train"] + split["val"]) == list(range(20))
    assert split == held_out_split(20, 0.25, seed=3)
    assert split != held_out_split(20, 0.25, seed=4)


def test_photos_of_a_part_and_only_its_classes(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"splits": {"train": ["fox"], "test": ["owl", "lynx"]}}))
    rows = [
        Row(b"1.jpg", ("owl",)),
        Row(b"2.jpg", ("fox",)),
        Row(b"3.jpg", ("lynx",)),
        Row(b"4.jpg", ("owl",)),
    ]
    collection = Collection.from_rows(tmp_path, rows)
    found = photos_of_split(collection, f"{path}:test")
    assert [found.file(row) for row in range(len(found))] == ["1.jpg", "3.jpg", "4.jpg"]
    assert sorted(found.classes) == ["lynx", "owl"]
    with pytest.raises(InvalidInput, match="Did you mean test"):
        photos_of_split(collection, f"{path}:tast")
    with pytest.raises(InvalidInput, match="there is no class list"):
        photos_of_split(collection, "nonsense:test")
