"""COCO annotations (Lin et al. 2014, "Microsoft COCO: Common Objects in Context"): image labels from objects.

An image has the categories of its annotations as labels, crowds left out; images without an annotation have none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewsight.data.formats.json_file import as_list, as_mapping, as_text
from fewsight.data.label_table import LabelFile, LabelRow, label_file
from fewsight.errors import InvalidInput

__all__ = ["is_coco", "read_coco"]


def is_coco(content: Any) -> bool:
    """Whether JSON content is a COCO data set."""
    return isinstance(content, dict) and "images" in content and "categories" in content


def read_coco(path: Path, content: Any) -> LabelFile:
    """Image labels, in the order of the images.

    Raises:
        InvalidInput: with the place, for what does not fit the format.
    """
    table = as_mapping(content, path, "the file")
    names: dict[Any, str] = {}
    for number, entry in enumerate(as_list(table["categories"], path, "categories")):
        category = as_mapping(entry, path, f"category {number}")
        names[_key(category, "id", path, f"category {number}")] = as_text(
            category.get("name"), path, f"category {number}"
        )
    labels: dict[Any, dict[str, None]] = {}
    for number, entry in enumerate(as_list(table.get("annotations", []), path, "annotations")):
        annotation = as_mapping(entry, path, f"annotation {number}")
        key = _key(annotation, "category_id", path, f"annotation {number}")
        if key not in names:
            raise InvalidInput(
                f"{path}, annotation {number}: category_id {key!r} is not among the categories."
            )
        if not annotation.get("iscrowd"):
            labels.setdefault(_key(annotation, "image_id", path, f"annotation {number}"), {})[names[key]] = (
                None
            )
    return label_file(
        path,
        (
            _row(entry, number, labels, path)
            for number, entry in enumerate(as_list(table["images"], path, "images"))
        ),
    )


def _row(entry: Any, number: int, labels: dict[Any, dict[str, None]], path: Path) -> LabelRow:
    where = f"image {number}"
    image = as_mapping(entry, path, where)
    found = labels.get(_key(image, "id", path, where), {})
    return LabelRow(where, as_text(image.get("file_name"), path, where), tuple(found))


def _key(entry: dict[str, Any], name: str, path: Path, where: str) -> int | str:
    value = entry.get(name)
    if not isinstance(value, (int, str)):
        raise InvalidInput(f"{path}, {where}: {name} is {value!r}; expected a number or text.")
    return value
