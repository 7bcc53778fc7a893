"""Annotations of other tools, as small files of each kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewsight.data.formats.annotations import find_annotations, read_annotation_file
from fewsight.data.formats.json_file import load_json
from fewsight.data.layouts import read_layout
from fewsight.errors import InvalidInput

COCO = {
    "images": [
        {"id": 1, "file_name": "a/1.jpg"},
        {"id": 2, "file_name": "2.jpg"},
        {"id": 3, "file_name": "3.jpg"},
    ],
    "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
    "annotations": [
        {"image_id": 2, "category_id": 9},
        {"image_id": 1, "category_id": 7},
        {"image_id": 1, "category_id": 9},
        {"image_id": 1, "category_id": 7},
        {"image_id": 3, "category_id": 7, "iscrowd": 1},
    ],
}


def rows(reading) -> dict[str, str]:
    return {photo.file: ";".join(photo.labels) for photo in reading.collection}


@pytest.mark.parametrize("images", ["", "images/", "../", "../images/", "../train2017/"])
def test_coco_with_its_images_in_the_usual_places(tmp_path, write, images):
    file = tmp_path / "set" / "annotations" / "instances_train2017.json"
    write(file, json.dumps(COCO).encode())
    for name in ("a/1.jpg", "2.jpg", "3.jpg"):
        write(Path(file.parent, images, name).resolve())
    reading = read_layout(file)
    assert rows(reading) == {"a/1.jpg": "cat;dog", "2.jpg": "dog"}
    assert reading.unlabelled == ("3.jpg",)
    assert reading.layout == "annotations"
    assert rows(read_layout(file, labels="optional"))["3.jpg"] == ""
    assert rows(read_layout(file, root=reading.collection.root)) == rows(reading)


def test_a_coco_folder(tmp_path, write):
    write(tmp_path / "_annotations.coco.json", json.dumps(COCO).encode())
    write(tmp_path / "2.jpg")
    reading = read_layout(tmp_path)
    assert rows(reading) == {"2.jpg": "dog"}
    assert reading.absent == ("a/1.jpg (image 0)", "3.jpg (image 2)")
    write(tmp_path / "more.jpg")
    write(tmp_path / "elsewhere" / "4.jpg")
    # a pile has a row for every photo beside those that are named
    assert rows(read_layout(tmp_path, labels="optional")) == {
        "a/1.jpg": "cat;dog",
        "2.jpg": "dog",
        "3.jpg": "",
        "more.jpg": "",
    }
    assert read_layout(tmp_path).unlabelled == ("3.jpg", "more.jpg")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"categories": [{"id": 7}]}, "category 0"),
        ({"categories": {}}, "categories: expected a list"),
        ({"annotations": [{"image_id": 1, "category_id": 5}]}, "annotation 0.*5 is not among"),
        ({"annotations": [{"category_id": 7}]}, "annotation 0: image_id"),
        ({"images": [{"id": 1, "file_name": ""}]}, "image 0"),
        ({"images": [{"id": [], "file_name": "x"}]}, "image 0: id"),
        ({"images": ["x"]}, "image 0: expected an object"),
        ({"images": [{"id": 1, "file_name": "../../etc/passwd"}]}, "image 0: .* lies outside"),
        ({"images": [{"id": 1, "file_name": "/etc/passwd"}]}, "image 0: .* lies outside"),
    ],
)
def test_damaged_coco_names_the_place(tmp_path, write, change, words):
    write(tmp_path / "c.json", json.dumps({**COCO, **change}).encode())
    with pytest.raises(InvalidInput, match=words):
        read_layout(tmp_path / "c.json")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"{}", b"[]", b"3", b'{"images": 1}', b"[1]"]
)
def test_json_that_is_nothing_of_these(tmp_path, write, content):
    write(tmp_path / "c.json", content)
    with pytest.raises(InvalidInput, match=r"c\.json"):
        read_layout(tmp_path / "c.json")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_json(tmp_path / "none.json")


def test_label_studio(tmp_path, write):
    for name in ("1.jpg", "2.jpg", "sub/3.jpg", "4 a.jpg"):
        write(tmp_path / name)

    def task(image: str, *results: dict, **annotation) -> dict:
        return {
            "data": {"image": image},
            "annotations": [{"result": list(results), **annotation}],
            "predictions": [{"result": [{"value": {"choices": ["never"]}}]}],
        }

    box = {"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["cat"]}}
    tasks = [
        task("/data/upload/3/0a1b2c3d-1.jpg", {"value": {"choices": ["dog"]}}, box),
        task("s3://bucket/x/2.jpg", box, was_cancelled=True),
        task("/data/local-files/?d=sub/3.jpg", box),
        task("https://host/4%20a.jpg", {"value": {"text": ["free words"]}}, box),
    ]
    write(tmp_path / "export.json", json.dumps(tasks).encode())
    assert rows(read_layout(tmp_path / "export.json", labels="optional")) == {
        "1.jpg": "dog;cat",
        "2.jpg": "",
        "sub/3.jpg": "cat",
        "4 a.jpg": "cat",
    }
    small = [
        {"image": "1.jpg", "choice": "dog"},
        {"image": "2.jpg", "label": [{"rectanglelabels": ["cat"], "x": 1}]},
    ]
    write(tmp_path / "min.json", json.dumps(small).encode())
    assert rows(read_layout(tmp_path / "min.json")) == {"1.jpg": "dog", "2.jpg": "cat"}
    write(tmp_path / "out.json", json.dumps([task("/data/local-files/?d=../../etc/passwd", box)]).encode())
    with pytest.raises(InvalidInput, match="lies outside"):
        read_layout(tmp_path / "out.json")
    write(tmp_path / "none.json", json.dumps([{"data": {"text": "x"}}]).encode())
    with pytest.raises(InvalidInput, match="task 0: no image"):
        read_layout(tmp_path / "none.json")


def xml(name: str, *objects: str) -> bytes:
    found = "".join(
        f"<object><name>{label}</name><part><name>head</name></part></object>" for label in objects
    )
    return f"<annotation><filename>{name}</filename>{found}</annotation>".encode()


def test_voc(tmp_path, write):
    write(tmp_path / "Annotations" / "10.xml", xml("10.jpg", "dog", "cat", "dog"))
    write(tmp_path / "Annotations" / "9.xml", xml("C:\\photos\\9.jpg", "cat"))
    for name in ("JPEGImages/10.jpg", "JPEGImages/9.jpg", "SegmentationClass/9.png"):
        write(tmp_path / name)
    write(tmp_path / "ImageSets" / "Main" / "val.txt", b"10\n")
    reading = read_layout(tmp_path)
    assert rows(reading) == {"JPEGImages/9.jpg": "cat", "JPEGImages/10.jpg": "dog;cat"}
    assert [photo.split for photo in reading.collection] == [None, "val"]
    assert reading.collection[0].mask == tmp_path / "SegmentationClass" / "9.png"


@pytest.mark.parametrize(
    "content",
    [b"<a", b"", b'<!DOCTYPE a [<!ENTITY b "cc">]><a>&b;</a>', b"<?xml version='1.0' encoding='no'?><a/>"],
)
def test_voc_xml_that_is_damaged_or_hostile(tmp_path, write, content):
    write(tmp_path / "Annotations" / "1.xml", content)
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(InvalidInput, match=r"1\.xml"):
        read_layout(tmp_path)


@pytest.mark.parametrize("config", ["names: [cat, dog]", "names:\n  0: cat\n  1: dog\n", None])
def test_yolo(tmp_path, write, config):
    if config:
        write(tmp_path / "data.yaml", config.encode())
    else:
        write(tmp_path / "classes.txt", b"cat\ndog\n")
    for name in ("images/train/1.jpg", "images/train/2.jpg", "images/val/3.jpg"):
        write(tmp_path / name)
    write(
        tmp_path / "labels" / "train" / "1.txt", b"1 0.5 0.5 0.1 0.1\n0 0.1 0.1 0.1 0.1\n1 0.2 0.2 0.1 0.1\n"
    )
    write(tmp_path / "labels" / "val" / "3.txt", b"0 0.5 0.5 1 1\n")
    reading = read_layout(tmp_path)
    assert rows(reading) == {"images/train/1.jpg": "dog;cat", "images/val/3.jpg": "cat"}
    assert [photo.split for photo in reading.collection] == ["train", "val"]
    assert reading.unlabelled == ("images/train/2.jpg",)
    write(tmp_path / "labels" / "val" / "3.txt", b"\n7 0 0 0 0\n")
    with pytest.raises(InvalidInput, match=r"3\.txt, line 2: class '7'"):
        read_layout(tmp_path)


@pytest.mark.parametrize(
    "config", ["names: 3", "nc: 2", "names: [a", "- a", "!!python/object/apply:os.system ['true']"]
)
def test_yolo_configurations_that_are_wrong(tmp_path, write, config):
    write(tmp_path / "data.yaml", config.encode())
    (tmp_path / "labels").mkdir()
    with pytest.raises(InvalidInput, match=r"data\.yaml"):
        read_layout(tmp_path)


def test_parquet_says_what_to_install_or_is_read(tmp_path, write):
    path = write(tmp_path / "labels.parquet", b"PAR1")
    try:
        import pyarrow
    except ImportError:
        with pytest.raises(InvalidInput, match="pip install pyarrow"):
            read_layout(path)
        return
    from pyarrow import parquet

    with pytest.raises(InvalidInput, match="Parquet"):
        read_layout(path)
    write(tmp_path / "1.jpg")
    parquet.write_table(pyarrow.table({"file_name": ["1.jpg"], "labels": [["cat", "dog"]]}), path)
    assert rows(read_layout(path)) == {"1.jpg": "cat;dog"}


def test_other_folders_are_none_of_these(tmp_path, write):
    write(tmp_path / "cat" / "1.jpg")
    write(tmp_path / "notes.json", b'{"a": 1}')
    assert find_annotations(tmp_path) is None
    assert read_layout(tmp_path).layout == "class folders"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "name", "file", "image", "bbox", "data", "result", "value", "choices"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.one_of(
        st.fixed_dictionaries({"images": JSON, "categories": JSON, "annotations": JSON}),
        st.fixed_dictionaries({"images": JSON, "detection_categories": JSON}),
        st.lists(st.fixed_dictionaries({"data": JSON, "annotations": JSON}), max_size=2),
        JSON,
    )
)
def test_any_json_gives_labels_or_an_error_for_people(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(content))
    try:
        read_annotation_file(path, (path.parent,))
    except InvalidInput as error:
        message = str(error)
    else:
        message = "a.json"
    assert "a.json" in message


def test_images_beside_the_annotations_win_over_namesakes_elsewhere(tmp_path, write):
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(3)],
        "categories": [{"id": 0, "name": "cat"}],
        "annotations": [{"image_id": n, "category_id": 0} for n in range(3)],
    }
    path = write(tmp_path / "set" / "annotations" / "instances_train.json", json.dumps(content).encode())
    for number in range(3):
        write(tmp_path / "set" / "images" / f"{number}.jpg")
    write(tmp_path / "pile" / "0.jpg")  # `predict` also looks among the photos to be judged
    collection = read_layout(path, root=[path.parent, tmp_path / "pile"]).collection
    assert len(collection) == 3
    assert collection.root == str(tmp_path / "set" / "images")
