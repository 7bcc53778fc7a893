"""FGVCx Fungi 2018: `train.json` and `val.json` and their photos; a class is `0008.Agaricus campestris`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewsight.data.formats.json_file import as_list, as_mapping, as_text, load_json
from fewsight.data.formats.meta_dataset.items import Found, Item, Reader, below, in_class_folders

__all__ = ["FUNGI"]

PARTS = ("train.json", "val.json")


def read(folder: Path, classes: Sequence[str]) -> Found:
    """Both files joined; categories are known by their number, since names repeat."""
    if not all((folder / name).is_file() for name in PARTS):
        return in_class_folders(folder, classes)
    by_number = {int(name.partition(".")[0]): name for name in classes}
    found: dict[str, list[Item]] = {name: [] for name in classes}
    for part in PARTS:
        path = folder / part
        held = as_mapping(load_json(path), path, "the file")
        files = {
            image.get("id"): image.get("file_name") for image in as_list(held.get("images"), path, "images")
        }
        for number, told in enumerate(as_list(held.get("annotations"), path, "annotations")):
            name = by_number.get(told.get("category_id"))
            if name is not None:
                where = f"annotation {number}"
                inside = as_text(files.get(told.get("image_id")), path, where)
                found[name].append(Item(_photo(folder, inside)))
    return {name: sorted(items) for name, items in found.items() if items}


def _photo(folder: Path, inside: str) -> Path:
    """Where a named photo lies."""
    place = below(folder, inside)
    return place if place.exists() else folder / "images" / inside


FUNGI = Reader(
    ("fgvcx_fungi", "fungi_train_val", "FGVCxFungi"), "train.json, val.json and the photos in images/", read
)
