"""`fewsight predict` on small real sets, five labelled photos a class, beside raw pixels.

    python benchmarks/small_sets.py --data SHARED/data --sets caltech101_a resisc12 dtd10

SHARED/data holds the sets and `read.py`. Support: the first five training photos of each class; queries: all test
photos, in class folders that give the truth. Prints a Markdown table; `--keep FOLDER` keeps the runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import tempfile
from pathlib import Path
from types import ModuleType

import numpy
from PIL import Image

from fewsight import FewShotClassifier, predict
from fewsight.evaluation.intervals import Interval, proportion_interval

SHOTS = 5


def reader(data: Path) -> ModuleType:
    """The module `read.py` of the shared data."""
    spec = importlib.util.spec_from_file_location("read", data / "read.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arranged(data: Path, name: str, folder: Path) -> tuple[Path, Path]:
    """The set as `labelled/CLASS/` and `pile/CLASS/`."""
    reader(data).extract(name, folder / "all")
    for part in sorted((folder / "all" / "train").iterdir()):
        (folder / "labelled" / part.name).mkdir(parents=True)
        for photo in sorted(part.iterdir())[:SHOTS]:
            shutil.copy(photo, folder / "labelled" / part.name / photo.name)
    shutil.copytree(folder / "all" / "test", folder / "pile")
    return folder / "labelled", folder / "pile"


def raw_pixels(folder: Path) -> tuple[numpy.ndarray, list[str]]:
    """Photos shrunk to 32 x 32 as rows of numbers, and their classes."""
    photos = sorted(folder.glob("*/*"))
    rows = [
        numpy.asarray(Image.open(p).convert("RGB").resize((32, 32)), numpy.float32).ravel() / 255
        for p in photos
    ]
    return numpy.stack(rows), [p.parent.name for p in photos]


def raw_accuracy(labelled: Path, pile: Path) -> Interval:
    """Prototypes on raw pixels."""
    classifier = FewShotClassifier().fit(*raw_pixels(labelled))
    rows, truth = raw_pixels(pile)
    return proportion_interval(int((classifier.predict(rows) == numpy.array(truth)).sum()), len(truth))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=["caltech101_a", "resisc12", "dtd10"])
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    print(
        "| set | classes | queries | expected from the support | measured | raw pixels |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as place:
        for name in asked.sets:
            folder = (asked.keep or Path(place)) / name
            labelled, pile = arranged(asked.data, name, folder)
            run = predict(labelled, pile, folder / "run", quiet=True)
            assert run.accuracy is not None
            raw = raw_accuracy(labelled, pile)
            classes = len(list(labelled.iterdir()))
            print(
                f"| {name} | {classes} | {len(run.rows)} | {run.expected.percent()} | {run.accuracy.percent()} | "
                f"{raw.percent()} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
