"""Published splits of classes into train, val and test, by name or from a file."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from fewsight.data.collection import Collection
from fewsight.errors import InvalidInput
from fewsight.names import closest

__all__ = ["class_split", "held_out_split", "split_classes"]

_SPLIT_NAMES = {"valid": "val", "validation": "val"}


def class_split(name: str | Path) -> dict[str, tuple[str, ...]]:
    """Split name -> class names, from a packaged list (`omniglot_vinyals`, `cifar_fs`, ...) or a JSON file.

    A file holds {"splits": {"train": [...], "val": [...], "test": [...]}}; a class is a name, or a list whose last
    entry is the name, or the key of a mapping.

    Raises:
        InvalidInput: there is no such list, or it is damaged.
    """
    folder = Path(str(resources.files("fewsight"))) / "data" / "splits"
    packaged = {path.stem: path for path in sorted(folder.rglob("*.json"))}
    path = packaged.get(str(name), Path(name))
    if not path.is_file():
        raise InvalidInput(f"class split {str(name)!r} is neither a file nor a packaged list. {closest(str(name), list(packaged))}")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))["splits"]
        return {_SPLIT_NAMES.get(split, split): tuple(_class_name(entry) for entry in classes) for split, classes in held.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InvalidInput(f"{path} is no class split ({type(error).__name__}); expected {{'splits': {{'train': [names]}}}}.") from error


def _class_name(entry: Any) -> str:
    return str(entry if isinstance(entry, str) else entry[-1])


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
                f"none of the {len(split[part])} {part} classes of the split is among the {len(place)} classes found; the "
                f"split says {split[part][0]!r}, the data {next(iter(place), 'nothing')!r}."
            )
    return found


def held_out_split(num_classes: int, share: float, seed: int) -> dict[str, list[int]]:
    """A random split of class ids into train and val, `share` of them (at least one) held out."""
    from fewsight.seeding import numpy_generator

    order = numpy_generator(seed, "held-out classes").permutation(num_classes)
    held = max(1, round(share * num_classes))
    return {"train": sorted(order[held:].tolist()), "val": sorted(order[:held].tolist())}
