"""Procedural scenes as a folder of photos with masks, which every verb reads like any other folder.

FOLDER/images/train/00000.png   FOLDER/masks/train/00000.png   (value = id of classes.csv)
FOLDER/index.csv                image, mask, split, labels
FOLDER/classes.csv              id, name
FOLDER/split.json               base classes for training, novel ones for the test (`--set class_split=`)
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy
from PIL import Image

from fewsight.data.scenes import Scene, Scenes
from fewsight.errors import InvalidInput
from fewsight.files import new_file, write_text

__all__ = ["scene_class_name", "write_scenes"]


def scene_class_name(number: int) -> str:
    """What class `number` is called: every fourth is novel, as in `Scenes`.

    >>> scene_class_name(3), scene_class_name(4)
    ('novel 03', 'base 04')
    """
    return f"{'novel' if number % 4 == 3 else 'base'} {number:02d}"


def write_scenes(
    folder: str | Path, *, base: int, novel: int, seed: int = 0, size: int = 128, num_classes: int = 48
) -> Path:
    """Write scenes of base classes (split `train`) and of novel classes (split `test`); they share no class.

    Args:
        folder: made where it does not exist.
        base, novel: how many scenes of each; either may be 0, not both.
        seed, size, num_classes: of `Scenes`.

    Raises:
        InvalidInput: there is no scene to write, or a setting is out of range.
    """
    if min(base, novel) < 0 or not base + novel:
        raise InvalidInput(f"base and novel are {base} and {novel}; expected scenes to write.")
    folder = Path(folder)
    rows = []
    for split, part, count in (("base", "train", base), ("novel", "test", novel)):
        if count:
            scenes = Scenes(seed, split, num_classes, size)  # type: ignore[arg-type]
            rows += [_written(folder, part, number, scenes[number]) for number in range(count)]
    with new_file(folder / "index.csv", "w") as file:
        csv.writer(file).writerows([("image", "mask", "split", "labels"), *rows])
    names = [scene_class_name(number) for number in range(num_classes)]
    with new_file(folder / "classes.csv", "w") as file:
        table = [(number + 1, name) for number, name in enumerate(names)]
        csv.writer(file).writerows([("id", "name"), (0, "background"), *table])
    splits = {
        "train": [name for name in names if name.startswith("base")],
        "test": [name for name in names if name.startswith("novel")],
    }
    write_text(folder / "split.json", json.dumps({"splits": splits}, indent=1))
    return folder


def _written(folder: Path, part: str, number: int, scene: Scene) -> tuple[str, str, str, str]:
    image, mask = f"images/{part}/{number:05d}.png", f"masks/{part}/{number:05d}.png"
    for place, pixels in ((image, scene.image), (mask, scene.mask.astype(numpy.uint8))):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / place, compress_level=1)
    return image, mask, part, ";".join(scene_class_name(number) for number in scene.labels)
