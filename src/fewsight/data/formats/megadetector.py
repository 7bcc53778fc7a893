"""MegaDetector results (JSON): boxes of animals, people and vehicles, to be cut out before they are named.

Boxes are (x, y, width, height) as shares of the upright photo, from its top left.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fewsight.data.formats.json_file import as_list, as_mapping, as_text, load_json
from fewsight.data.label_table import LabelFile, LabelRow, label_file
from fewsight.errors import InvalidInput

__all__ = ["Detection", "is_megadetector", "read_detections", "read_megadetector"]

MINIMUM = 0.2  # confidence that MegaDetector's authors advise for version 5


class Detection(NamedTuple):
    """One box: the file as written, category, confidence in [0, 1], and (x, y, width, height) in [0, 1]."""

    file: str
    category: str
    confidence: float
    box: tuple[float, float, float, float]


def is_megadetector(content: Any) -> bool:
    """Whether JSON content is a MegaDetector result."""
    return isinstance(content, dict) and "detection_categories" in content and "images" in content


def read_detections(path: str | Path, *, minimum: float = MINIMUM) -> tuple[Detection, ...]:
    """All boxes of at least `minimum` confidence, in the order of the file.

    Raises:
        InvalidInput: with the place, for what does not fit the format.
    """
    path = Path(path)
    return tuple(_detections(path, load_json(path), minimum))


def read_megadetector(path: Path, content: Any, *, minimum: float = MINIMUM) -> LabelFile:
    """Image labels and the box of each photo.

    Labels are the categories found with at least `minimum` confidence (none: an empty photo). The box is that of the
    surest detection, animals before all else; an empty photo has none and is looked at as a whole.
    """
    found: dict[str, dict[str, None]] = {}
    best: dict[str, Detection] = {}
    for detection in _detections(path, content, minimum):
        found.setdefault(detection.file, {})[detection.category] = None
        best[detection.file] = max(best.get(detection.file, detection), detection, key=_rank)
    images = as_list(content["images"], path, "images")
    names = [
        (n, as_text(as_mapping(entry, path, f"image {n}").get("file"), path, f"image {n}"))
        for n, entry in enumerate(images)
    ]
    return label_file(
        path,
        (
            LabelRow(
                f"image {n}", name, tuple(found.get(name, ())), box=best[name].box if name in best else None
            )
            for n, name in names
        ),
    )


def _rank(detection: Detection) -> tuple[bool, float]:
    return detection.category == "animal", detection.confidence


def _detections(path: Path, content: Any, minimum: float) -> Iterator[Detection]:
    table = as_mapping(content, path, "the file")
    categories = as_mapping(table.get("detection_categories"), path, "detection_categories")
    for number, entry in enumerate(as_list(table.get("images"), path, "images")):
        where = f"image {number}"
        image = as_mapping(entry, path, where)
        file = as_text(image.get("file"), path, where)
        for found in as_list(image.get("detections") or [], path, where):
            detection = _detection(as_mapping(found, path, where), file, categories, path, where)
            if detection.confidence >= minimum:
                yield detection


def _detection(
    found: dict[str, Any], file: str, categories: dict[str, Any], path: Path, where: str
) -> Detection:
    box = found.get("bbox")
    numbers = [*box, found.get("conf")] if isinstance(box, list) else []
    if len(numbers) != 5 or not all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in numbers):
        raise InvalidInput(
            f"{path}, {where}: a detection has the box {box!r} and conf {found.get('conf')!r}."
        )
    category = categories.get(str(found.get("category")), found.get("category"))
    return Detection(file, str(category), float(numbers[4]), (numbers[0], numbers[1], numbers[2], numbers[3]))
