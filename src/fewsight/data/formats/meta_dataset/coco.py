"""MSCOCO 2017: each annotated object of `instances_train2017.json`, its box enlarged by a fifth and cut out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewsight.data.formats.json_file import as_list, as_mapping, as_text, load_json
from fewsight.data.formats.meta_dataset.items import (
    Found,
    Item,
    Reader,
    below,
    cropped,
    first_of,
    in_class_folders,
)
from fewsight.errors import InvalidInput

__all__ = ["COCO", "enlarged_box"]

ENLARGED = 1.2


def read(folder: Path, classes: Sequence[str]) -> Found:
    """Every annotation with a box that is left inside its photo, crowds among them."""
    path = first_of(folder, "annotations/instances_train2017.json", "instances_train2017.json")
    photos = first_of(folder, "train2017", "images/train2017")
    if path is None or photos is None:
        return in_class_folders(folder, classes)
    held = as_mapping(load_json(path), path, "the file")
    names = {one.get("id"): one.get("name") for one in as_list(held.get("categories"), path, "categories")}
    images = {one.get("id"): one for one in as_list(held.get("images"), path, "images")}
    found: dict[str, list[Item]] = {name: [] for name in classes}
    for number, told in enumerate(as_list(held.get("annotations"), path, "annotations")):
        name = names.get(told.get("category_id"))
        if name in found:
            item = _item(photos, images.get(told.get("image_id"), {}), told, path, f"annotation {number}")
            if item is not None:
                found[name].append(item)
    return {name: items for name, items in found.items() if items}


def _item(
    photos: Path, image: Mapping[str, Any], told: Mapping[str, Any], path: Path, where: str
) -> Item | None:
    file = below(photos, as_text(image.get("file_name"), path, where))
    try:
        left, top, width, height = (float(number) for number in told["bbox"])
        size = int(image["width"]), int(image["height"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{path}, {where}: its box or the size of its photo is missing.") from error
    box = enlarged_box(left, top, width, height, size)
    return Item(file, box) if box[2] > box[0] and box[3] > box[1] else None


def enlarged_box(
    left: float, top: float, width: float, height: float, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """(xmin, ymin, xmax, ymax) of a box enlarged about its centre, inside a photo of `size` (width, height).

    >>> enlarged_box(10, 20, 10, 20, (100, 100))
    (8, 18, 21, 43)
    """
    left, top = left + width / 2 - ENLARGED * width / 2, top + height / 2 - ENLARGED * height / 2
    right, bottom = left + ENLARGED * width, top + ENLARGED * height
    return (
        max(round(left - 0.5), 0),
        max(round(top - 0.5), 0),
        min(round(right - 0.5) + 1, size[0]),
        min(round(bottom - 0.5) + 1, size[1]),
    )


COCO = Reader(
    ("coco", "COCO", "coco2017"), "annotations/instances_train2017.json and train2017/*.jpg", read, cropped
)
