"""Folders as people have them, and which reading is taken."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from fewsight.data.layouts import read_layout
from fewsight.errors import InvalidInput


@pytest.fixture
def tree(tmp_path, write):
    """`tree("a/1.jpg", ...)`: a folder with these files (a name ending in `/` is an empty folder)."""

    def make(*names: str, **texts: str):
        root = tmp_path / "DATA"
        root.mkdir(exist_ok=True)
        for name in names:
            if name.endswith("/"):
                (root / name).mkdir(parents=True)
            else:
                write(root / name, b"x")
        for name, text in texts.items():
            write(root / f"{name}.csv", text.encode())
        return root

    return make


def rows(reading) -> list[tuple]:
    return [(p.file, ";".join(p.labels), p.split, p.group) for p in reading.collection]


def test_class_folders_in_natural_order_with_groups(tree):
    reading = read_layout(
        tree("cat/10.jpg", "cat/9.JPG", "dog/s2/b/1.png", "dog/s2/1.jpeg", "class10/1.jpg", "class9/1.jpg")
    )
    assert rows(reading) == [
        ("cat/9.JPG", "cat", None, None),
        ("cat/10.jpg", "cat", None, None),
        ("class9/1.jpg", "class9", None, None),
        ("class10/1.jpg", "class10", None, None),
        ("dog/s2/1.jpeg", "dog", None, "s2"),
        ("dog/s2/b/1.png", "dog", None, "s2/b"),
    ]
    assert reading.collection.classes == ("cat", "class9", "class10", "dog")
    assert reading.layout == "class folders"
    assert reading.suffixes == {".jpg": 5, ".png": 1}
    assert "6 photos of 4 classes" in reading.description


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "VAL", "test"), ("all",), ("train", "valid")])
def test_top_folders_named_as_splits_are_splits(tree, names):
    reading = read_layout(
        tree(*(f"{name}/{label}/1.jpg" for name in names for label in "ab"), "docs/readme.txt")
    )
    expected = {"valid": "val"}
    assert {p.split for p in reading.collection} == {
        expected.get(name.lower(), name.lower()) for name in names
    }
    assert reading.collection.classes == ("a", "b")


def test_splits_are_all_or_none(tree):
    reading = read_layout(tree("train/1.jpg", "test/1.jpg", "bird/1.jpg"))
    assert reading.collection.classes == ("bird", "test", "train")


def test_leaf_folders_as_classes(tree):
    root = tree("birds/owl/1.jpg", "birds/crow/1.jpg", "mammals/cats/lynx/1.jpg")
    assert read_layout(root, class_level="leaf").collection.classes == ("crow", "owl", "lynx")
    assert read_layout(root).collection.classes == ("birds", "mammals")
    tree("mammals/owl/1.jpg")
    assert read_layout(root, class_level="leaf").collection.classes == (
        "birds/crow",
        "birds/owl",
        "mammals/cats/lynx",
        "mammals/owl",
    )


def test_litter_is_counted_and_never_a_class(tree):
    reading = read_layout(
        tree(
            "cat/1.jpg",
            "cat/._1.jpg",
            "cat/.DS_Store",
            "cat/Thumbs.db",
            ".ipynb_checkpoints/1.jpg",
            "__MACOSX/cat/1.jpg",
            "cat/.hidden.jpg",
            "cat/notes.txt",
        )
    )
    assert reading.collection.classes == ("cat",)
    assert len(reading.collection) == 1
    assert reading.ignored == {
        "._*": 1,
        ".DS_Store": 1,
        "Thumbs.db": 1,
        ".ipynb_checkpoints": 1,
        "__MACOSX": 1,
        "hidden files and folders": 1,
        ".txt files": 1,
    }
    assert ".DS_Store" in reading.description


def test_photos_without_suffix_are_found_by_content(tree, write, picture, encoded):
    root = tree("cat/notes")
    write(root / "cat" / "IMG_1")
    write(root / "cat" / "IMG_2.backup", encoded(picture(), "PNG"))
    assert [p.file for p in read_layout(root).collection] == ["cat/IMG_1", "cat/IMG_2.backup"]


def test_an_empty_class_is_an_error_that_names_it_or_is_skipped(tree):
    root = tree("cat/1.jpg", "dog/", "fox/readme.txt")
    with pytest.raises(InvalidInput, match=r"'dog'.*'fox'.*--skip-empty"):
        read_layout(root)
    reading = read_layout(root, skip_empty=True)
    assert reading.collection.classes == ("cat",)
    assert any("'dog'" in warning for warning in reading.warnings)
    assert len(read_layout(root, labels="optional").collection) == 1


def test_a_class_empty_in_one_split_is_not_empty(tree):
    assert len(read_layout(tree("train/cat/1.jpg", "test/cat/")).collection) == 1


def test_when_nothing_fits_the_error_shows_what_was_found_and_an_example(tree):
    with pytest.raises(InvalidInput) as caught:
        read_layout(tree("1.jpg", "2.jpg", "3.png", "notes.txt"))
    message = str(caught.value)
    assert "2 .jpg, 1 .png" in message
    assert "1 .txt files" in message
    assert "cat/1.jpg" in message
    assert "image,labels" in message
    with pytest.raises(InvalidInput, match="does not exist"):
        read_layout("nowhere/at/all")


def test_an_empty_folder(tmp_path):
    with pytest.raises(InvalidInput, match="no photos"):
        read_layout(tmp_path)
    for labels in ("optional", "none"):
        assert len(read_layout(tmp_path, labels=labels).collection) == 0


def test_a_pile_is_fine_where_labels_are_not_required(tree):
    root = tree("1.jpg", "s1/2.jpg", "s1/x/3.jpg")
    assert rows(read_layout(root, labels="optional")) == [
        ("1.jpg", "", None, None),
        ("s1/2.jpg", "s1", None, None),
        ("s1/x/3.jpg", "s1", None, "x"),
    ]
    reading = read_layout(root, labels="none")
    assert rows(reading) == [
        ("1.jpg", "", None, None),
        ("s1/2.jpg", "", None, "s1"),
        ("s1/x/3.jpg", "", None, "s1/x"),
    ]
    assert reading.collection.classes == ()
    assert read_layout(tree() / "1.jpg", labels="optional").collection[0].file == "1.jpg"


def test_photos_beside_class_folders_are_listed_and_left_out(tree):
    reading = read_layout(tree("cat/1.jpg", "stray.jpg"))
    assert reading.unlabelled == ("stray.jpg",)
    assert "stray.jpg" in reading.warnings[0]
    assert len(reading.collection) == 1


def test_index_csv_wins(tree):
    root = tree(
        "x/1.jpg",
        "x/2.jpg",
        "x/3.jpg",
        index="image,labels,split,group\nx/2.jpg,b;a,valid,g\nx/1.jpg,a,train,\ngone.jpg,a,,\n",
    )
    reading = read_layout(root)
    assert rows(reading) == [("x/2.jpg", "b;a", "val", "g"), ("x/1.jpg", "a", "train", None)]
    assert reading.layout == "csv"
    assert reading.absent == ("gone.jpg (line 4)",)
    assert reading.unlabelled == ("x/3.jpg",)
    assert any("gone.jpg" in w for w in reading.warnings)
    assert any("x/3.jpg" in w for w in reading.warnings)
    optional = read_layout(root, labels="optional")
    assert [row[0] for row in rows(optional)] == ["x/2.jpg", "x/1.jpg", "gone.jpg", "x/3.jpg"]
    assert [row[0] for row in rows(read_layout(root, labels="none"))] == ["x/1.jpg", "x/2.jpg", "x/3.jpg"]


def test_a_csv_somewhere_else_needs_its_root(tree, tmp_path):
    root = tree("1.jpg", "2.jpg")
    table = tmp_path / "RUN" / "predictions.csv"
    table.parent.mkdir()
    table.write_text("file,label,status\n1.jpg,cat,ok\n2.jpg,,rejected\n")
    with pytest.raises(InvalidInput, match=r"none of the 2 images.*1\.jpg"):
        read_layout(table)
    reading = read_layout(table, root=[table.parent, root])
    assert rows(reading) == [("1.jpg", "cat", None, None)]
    assert reading.collection[0].source == root / "1.jpg"
    assert reading.unlabelled == ("2.jpg",)
    table.write_text("file,label\n1.jpg,\n")
    with pytest.raises(InvalidInput, match="labels no image"):
        read_layout(table, root=root)


@pytest.mark.parametrize(("one", "other"), [("Cat", "cat"), ("cat ", "cat"), ("caf\u00e9", "cafe\u0301")])
def test_class_names_that_look_the_same(tree, one, other):
    reading = read_layout(tree(f"{one}/1.jpg", f"{other}/1.jpg"))
    assert len(reading.collection.classes) == 2
    (warning,) = reading.warnings
    assert ascii(one) in warning or repr(one) in warning
    assert ascii(other) in warning or repr(other) in warning


def test_masks_beside_photos(tree):
    root = tree(
        "cat/1.jpg",
        "cat/1_mask.png",
        "cat/2.jpg",
        "cat/masks/2.png",
        "dog/3.jpg",
        "masks/dog/3.jpg.png",
        "dog/4_mask.png",
    )
    reading = read_layout(root)
    assert {p.file: p.mask and p.mask.relative_to(root).as_posix() for p in reading.collection} == {
        "cat/1.jpg": "cat/1_mask.png",
        "cat/2.jpg": "cat/masks/2.png",
        "dog/3.jpg": "masks/dog/3.jpg.png",
        "dog/4_mask.png": None,  # no photo has this name: it is a photo
    }
    assert "3 masks" in reading.description


def test_a_class_may_be_called_masks(tree):
    assert read_layout(tree("masks/a.png", "hats/b.png")).collection.classes == ("hats", "masks")


def test_images_beside_masks(tree):
    root = tree("images/train/cat/1.jpg", "masks/train/cat/1.png")
    reading = read_layout(root)
    assert rows(reading) == [("images/train/cat/1.jpg", "cat", "train", None)]
    assert reading.collection[0].mask == root / "masks" / "train" / "cat" / "1.png"


def test_hostile_names_are_rows(tmp_path):
    names = [
        b"a\nb.jpg",
        b"q\"'.jpg",
        b"c,d;.jpg",
        b"<script>.jpg",
        "\U0001f98a.jpg".encode(),
        b"\xff\xfe.jpg",
        b"x" * 251 + b".jpg",
    ]
    names += [b"same.jpg", b"same.png", b"back\\slash.jpg", b"sp ace .jpg", b"..jpg.jpg"]
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(folder)).mkdir()
    for name in names:
        with os.fdopen(os.open(folder + b"/" + name, os.O_CREAT | os.O_WRONLY), "wb") as file:
            file.write(b"x")
    collection = read_layout(tmp_path).collection
    # a name that starts with a dot is hidden
    assert sorted(collection.files) == sorted(
        b"caf\xe9/" + name for name in names if not name.startswith(b".")
    )
    assert collection.classes == ("caf\\xe9",)
    assert len({collection.file(n) for n in range(len(collection))}) == len(collection)


def test_links_pipes_and_circles(tree, tmp_path):
    root = tree("cat/1.jpg")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "2.jpg").write_bytes(b"x")
    (root / "linked").symlink_to(outside)
    (root / "cat" / "broken.jpg").symlink_to("nowhere")
    (root / "cat" / "circle.jpg").symlink_to("circle.jpg")
    (root / "cat" / "around").symlink_to(root)
    os.mkfifo(root / "cat" / "pipe.jpg")
    os.mkfifo(root / "cat" / "pipe")
    reading = read_layout(root)
    assert [p.file for p in reading.collection] == [
        "cat/1.jpg",
        "cat/broken.jpg",
        "cat/circle.jpg",
        "cat/pipe.jpg",
    ]
    assert reading.ignored["links to folders"] == 2
    followed = read_layout(root, follow_links=True)
    assert "linked/2.jpg" in [p.file for p in followed.collection]
    assert followed.ignored["links in a circle"] >= 1


def test_the_order_does_not_depend_on_the_disk(tree, monkeypatch):
    root = tree(*(f"{label}/{n}.jpg" for label in "ba" for n in (3, 1, 2)))
    first = rows(read_layout(root))
    true_scandir = os.scandir

    class Backwards:
        def __init__(self, path):
            with true_scandir(path) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self):
            return self.entries

        def __exit__(self, *rest):
            return None

        def __iter__(self):
            return iter(self.entries)

    monkeypatch.setattr("fewsight.data.walk.os.scandir", Backwards)
    assert rows(read_layout(root)) == first


@pytest.mark.parametrize("name", ["dtd10", "camvid", "pacs"])
def test_the_shared_sets_as_their_tables_say(data_set, name):
    root = data_set(name)
    reading = read_layout(root)
    assert reading.warnings == ()
    assert (reading.collection.masks is not None) == (name == "camvid")
    sizes = Counter(p.split for p in reading.collection)
    expected = {"dtd10": {"train": 270, "test": 130}, "camvid": {"test": 233, "train": 367, "val": 101}}
    assert sizes == expected.get(name, dict.fromkeys(("art_painting", "cartoon", "photo", "sketch"), 210))


def test_features_are_no_photos(tmp_path):
    (tmp_path / "index.csv").write_text(
        "file,shard,row,status,note\na.jpg,features-00000.safetensors,0,ok,\n"
    )
    (tmp_path / "features-00000.safetensors").write_bytes(b"features")
    for labels in ("required", "optional", "none"):
        with pytest.raises(InvalidInput, match="made by `fewsight embed`, and photos are needed"):
            read_layout(tmp_path, labels=labels)
