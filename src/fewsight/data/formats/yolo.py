"""YOLO: `data.yaml` or a list of names, `images/...` and beside them `labels/....txt` with a class number a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fewsight.data.file_names import display_name
from fewsight.data.label_table import LabelFile, LabelRow, label_file
from fewsight.data.walk import walk_folders
from fewsight.errors import InvalidInput

__all__ = ["is_yolo", "read_yolo"]

_NAME_LISTS = ("classes.txt", "obj.names", "labels/classes.txt")


def is_yolo(folder: Path) -> bool:
    """Whether a folder holds YOLO labels and the names of their classes."""
    named = (folder / "data.yaml").is_file() or any((folder / name).is_file() for name in _NAME_LISTS)
    return named and any(next(folder.glob(place), None) for place in ("labels", "*/labels"))


def read_yolo(folder: Path) -> LabelFile:
    """Image labels of all images below `folder` that lie in a folder named `images`; the folder names are splits.

    Raises:
        InvalidInput: with the file and line, for a class number without a name.
    """
    names = _names(folder)
    return label_file(folder, _rows(folder, names))


def _rows(folder: Path, names: dict[int, str]) -> Iterator[LabelRow]:
    for inside in walk_folders(str(folder), Counter()):
        parts = display_name(inside.path).split("/")
        if "images" not in parts:
            continue
        here = len(parts) - 1 - parts[::-1].index("images")
        labels = folder.joinpath(*parts[:here], "labels", *parts[here + 1 :])
        split = next((part for part in parts if part.lower() in ("train", "val", "valid", "test")), "")
        for photo in inside.photos:
            name = display_name(photo)
            found = _labels(labels / f"{Path(name).stem}.txt", names)
            yield LabelRow(name, display_name(inside.inside(photo)), found, split=split)


def _labels(file: Path, names: dict[int, str]) -> tuple[str, ...]:
    if not file.is_file():
        return ()
    found: dict[str, None] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.split():
            continue
        first = line.split()[0]
        if not first.isdecimal() or int(first) not in names:
            raise InvalidInput(f"{file}, line {number}: class {first!r} is not among the {len(names)} names.")
        found[names[int(first)]] = None
    return tuple(found)


def _names(folder: Path) -> dict[int, str]:
    config = folder / "data.yaml"
    if not config.is_file():
        path = next(folder / name for name in _NAME_LISTS if (folder / name).is_file())
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        return dict(enumerate(line.strip() for line in lines if line.strip()))
    import yaml

    try:
        content: Any = yaml.safe_load(config.read_text(encoding="utf-8-sig"))
        names = content["names"]
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        return {int(number): str(name) for number, name in pairs}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"{config} has no list of names ({error}).") from error
