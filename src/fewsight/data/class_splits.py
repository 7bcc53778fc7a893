"""Published splits of classes into train, val and test, by name or from a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

from fewsight.data.collection import Collection
from fewsight.data.splits import class_split
from fewsight.errors import InvalidInput
from fewsight.names import closest

__all__ = ["held_out_split", "photos_of_split", "split_class_names", "split_classes"]

_SPLIT_NAMES = {"valid": "val", "validation": "val"}


def split_class_names(name: str | Path) -> dict[str, tuple[str, ...]]:
    """Split name (`train`, `val`, `test`) -> class names, from a packaged list or a JSON file.

    A file holds {"splits": {"train": [...], "val": [...], "test": [...]}}. A class is a name, a list whose last
    entry is the name, or a key; a key with a list of numbers stands for several, by the file's `class_name`.

    Raises:
        InvalidInput: there is no such list, or it is damaged.
    """
    path = Path(name)
    if not path.is_file():
        return _names(class_split(str(name)), str(name))
    try:
        return _names(json.loads(path.read_text(encoding="utf-8")), str(path))
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}.") from error


def _names(held: Any, where: str) -> dict[str, tuple[str, ...]]:
    try:
        template = held.get("class_name", "{alphabet}")
        return {
            _SPLIT_NAMES.get(split, split): tuple(_class_names(classes, template))
            for split, classes in held["splits"].items()
        }
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InvalidInput(
            f"{where} is no class split ({type(error).__name__}); expected {{'splits': {{'train': [names]}}}}."
        ) from error


def _class_names(classes: Any, template: str) -> Iterator[str]:
    for entry in classes:
        members = classes[entry] if isinstance(classes, dict) else None
        if isinstance(members, list):
            yield from (template.format(alphabet=entry, number=number) for number in members)
        else:
            yield str(entry if isinstance(entry, str) else entry[-1])


def split_classes(collection: Collection, split: dict[str, tuple[str, ...]]) -> dict[str, list[int]]:
    """Split name -> class ids of the collection.

    Raises:
        InvalidInput: a split has no class in the collection.
    """
    place = {name: number for number, name in enumerate(collection.classes)}
    found = {part: [place[name] for name in names if name in place] for part, names in split.items()}
    for part, classes in found.items():
        if not classes and split[part]:
            raise InvalidInput(
                f"none of the {len(split[part])} {part} classes of the split is among the {len(place)} classes found; "
                f"the split says {split[part][0]!r}, the data {next(iter(place), 'nothing')!r}."
            )
    return found


def photos_of_split(collection: Collection, split: str) -> Collection:
    """The photos of a split, and only their classes.

    Args:
        split: a split of the data (`test`), or NAME:PART, the classes of a part of a published class split
            (`cifar_fs:test`; a JSON file does too).

    Raises:
        InvalidInput: there is no such class split or part, or no photo is in it.
    """
    name, colon, part = split.rpartition(":")
    if not colon:
        return collection.select(collection.in_split(split)).without_empty_classes()
    parts = split_class_names(name)
    if part not in parts:
        raise InvalidInput(f"class split {name} has no part {part!r}. {closest(part, list(parts))}")
    chosen = split_classes(collection, {part: parts[part]})[part]
    by_class = collection.by_class()
    rows = numpy.unique(numpy.concatenate([by_class[number] for number in chosen]))
    return collection.select(rows).without_empty_classes()


def held_out_split(num_classes: int, share: float, seed: int) -> dict[str, list[int]]:
    """A random split of class ids into train and val, `share` of them (at least one) held out."""
    from fewsight.seeding import numpy_generator

    order = numpy_generator(seed, "held-out classes").permutation(num_classes)
    held = max(1, round(share * num_classes))
    return {"train": sorted(order[held:].tolist()), "val": sorted(order[:held].tolist())}
