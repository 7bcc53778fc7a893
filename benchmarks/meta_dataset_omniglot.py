"""Omniglot in its published layout, from packed drawings, for `fewsight evaluate --protocol meta-dataset`.

    python benchmarks/meta_dataset_omniglot.py --data SHARED/data --work FOLDER
    fewsight evaluate FOLDER --protocol meta-dataset

Writes FOLDER/omniglot/images_background and images_evaluation with a folder for each alphabet and character and one PNG
of 105 x 105 pixels for each of 20 drawers, black strokes on white, as the set is distributed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy
from PIL import Image

SIDE = 105


def write_omniglot(archive: Path, folder: Path) -> int:
    """Write all drawings; how many there are."""
    with numpy.load(archive, allow_pickle=False) as held:
        packed, character, drawer = held["image105"], held["character"], held["drawer"]
        names, background = held["character_names"].tolist(), held["background"]
    for row, number, who in zip(packed, character.tolist(), drawer.tolist(), strict=True):
        part = "images_background" if background[number] else "images_evaluation"
        place = folder / part / names[number]
        place.mkdir(parents=True, exist_ok=True)
        ink = numpy.unpackbits(row)[: SIDE * SIDE].reshape(SIDE, SIDE)
        Image.fromarray(255 * (1 - ink)).save(place / f"{number + 1:04d}_{who:02d}.png")
    return len(packed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    count = write_omniglot(options.data / "omniglot.npz", options.work / "omniglot")
    print(f"{count} drawings in {options.work / 'omniglot'}")
