"""MegaDetector: boxes, their labels, and what is cut out of a photo."""

from __future__ import annotations

import json

import numpy
import pytest

from fewsight.data.formats.megadetector import cut_out, read_detections
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


def test_cutting_out():
    image = (
        numpy.arange(100 * 200, dtype=numpy.uint16)
        .astype(numpy.uint8)
        .reshape(100, 200)[:, :, None]
        .repeat(3, axis=2)
    )
    part = cut_out(image, (0.25, 0.5, 0.5, 0.25), margin=0)
    assert numpy.array_equal(part, image[50:75, 50:150])
    assert cut_out(image, (0.25, 0.5, 0.5, 0.25), margin=0.1).shape[:2] == (31, 120)
    assert cut_out(image, (0, 0, 1, 1), margin=0.5).shape == image.shape
    for box in [(1, 1, 0, 0), (0, 0, 0, 0), (0.999, 0.999, 0.001, 0.001)]:
        assert min(cut_out(image, box, margin=0).shape) >= 1
