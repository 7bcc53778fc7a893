"""MegaDetector: boxes, their labels, and what is cut out of a photo."""

from __future__ import annotations

import json

import pytest

from fewsight.data.formats.megadetector import read_detections
from fewsight.data.layouts import read_layout
from fewsight.errors import InvalidInput

RESULT = {
    "images": [
        {
            "file": "s1/1.jpg",
            "detections": [
                {"category": "1", "conf": 0.9, "bbox": [0.25, 0.5, 0.5, 0.25]},
                {"category": "2", "conf": 0.1, "bbox": [0, 0, 1, 1]},
            ],
        },
        {"file": "s1/2.jpg", "detections": []},
        {"file": "s1/3.jpg", "failure": "Failure image access", "detections": None},
    ],
    "detection_categories": {"1": "animal", "2": "person"},
}


@pytest.fixture
def result(tmp_path, write):
    for number in (1, 2, 3):
        write(tmp_path / "s1" / f"{number}.jpg")
    return write(tmp_path / "md.json", json.dumps(RESULT).encode())


def test_boxes_and_labels(result):
    (detection,) = read_detections(result)
    assert detection == ("s1/1.jpg", "animal", 0.9, (0.25, 0.5, 0.5, 0.25))
    assert len(read_detections(result, minimum=0.05)) == 2
    reading = read_layout(result, labels="optional")
    assert {p.file: p.labels for p in reading.collection} == {
        "s1/1.jpg": ("animal",),
        "s1/2.jpg": (),
        "s1/3.jpg": (),
    }


@pytest.mark.parametrize(
    "box", [[0, 0, 1], [0, 0, 1, 2], [-0.1, 0, 1, 1], ["a", 0, 0, 0], None, [0, 0, float("nan"), 1]]
)
def test_wrong_boxes_name_the_image(tmp_path, write, box):
    content = {
        "images": [{"file": "1.jpg", "detections": [{"category": "1", "conf": 1, "bbox": box}]}],
        "detection_categories": {},
    }
    path = write(tmp_path / "md.json", json.dumps(content).encode())
    with pytest.raises(InvalidInput, match="image 0"):
        read_detections(path)


def test_a_photo_is_looked_at_in_its_surest_box_animals_first(tmp_path, write):
    boxes = {"1": [0.1, 0.1, 0.2, 0.2], "2": [0.5, 0.5, 0.25, 0.25]}
    detections = [
        {"category": "1", "conf": 0.3, "bbox": boxes["1"]},
        {"category": "1", "conf": 0.25, "bbox": [0, 0, 1, 1]},
        {"category": "2", "conf": 0.95, "bbox": boxes["2"]},
    ]
    content = {
        "images": [
            {"file": "a.jpg", "detections": detections},
            {"file": "b.jpg", "detections": detections[2:]},
            {"file": "c.jpg", "detections": []},
        ],
        "detection_categories": {"1": "animal", "2": "person"},
    }
    for name in "abc":
        write(tmp_path / f"{name}.jpg")
    result = write(tmp_path / "md.json", json.dumps(content).encode())
    collection = read_layout(result, labels="optional").collection
    assert collection.box_of(0) == pytest.approx(boxes["1"])  # float32
    assert collection.box_of(1) == pytest.approx(boxes["2"])
    assert collection.box_of(2) is None
    assert collection.select([2, 0]).box_of(1) == pytest.approx(boxes["1"])
    assert collection.whole().box_of(0) is None
    assert read_layout(tmp_path, labels="none").collection.boxes is None
