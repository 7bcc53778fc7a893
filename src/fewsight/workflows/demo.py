"""`fewsight demo`: the main job on real data that comes with scikit-learn, offline.

The handwritten digits of the UCI repository (Alpaydin and Kaynak 1998; 1,797 pictures of 8 x 8 pixels) are written as
ordinary photos: five of each digit labelled, thirty of each in a pile. Then it is `fewsight predict` that runs, as
anybody would call it. A second part looks for objects of three kinds in procedural scenes with `fewsight segment`.
"""

from __future__ import annotations

from pathlib import Path

import numpy

from fewsight.data.scenes import Scenes
from fewsight.files import said_of_disk
from fewsight.progress import quieted, say
from fewsight.seeding import numpy_generator
from fewsight.workflows.predict import PredictionRun, predict
from fewsight.workflows.segment import segment

__all__ = ["demo", "write_digits", "write_objects"]

SHOTS, QUERIES = 5, 30
SIDE = 96  # pixels: each of the 8 x 8 becomes a smooth blob
KINDS, EACH, SCENES = (6, 12, 20), 3, 12  # classes of `Scenes`, labelled scenes of each, scenes to search


def write_digits(folder: Path, *, seed: int = 0) -> None:
    """Write `labelled/DIGIT/*.png` and `pile/DIGIT/*.png` under `folder`.

    The folders of the pile give the truth, which predict uses for the accuracy alone.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for digit in range(10):
        rows = numpy.flatnonzero(digits.target == digit)
        order = numpy_generator(seed, "demo digits", digit).permutation(len(rows))[: SHOTS + QUERIES]
        for place, row in enumerate(rows[order]):
            part = folder / ("labelled" if place < SHOTS else "pile") / str(digit)
            grey = numpy.round(255 - digits.images[row] * (255 / 16)).astype(numpy.uint8)
            with said_of_disk(part):
                part.mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                picture.save(part / f"{row:04d}.png")


def write_objects(folder: Path, *, seed: int = 0) -> None:
    """Write `labelled/KIND/*.png` with masks beside them, and `scenes/*.png` to search, under `folder`."""
    from PIL import Image

    scenes = Scenes(seed, "all", size=128, objects=(1, 2))
    for number, kind in enumerate(KINDS):
        part = folder / "labelled" / f"kind {number + 1}"
        with said_of_disk(part):
            part.mkdir(parents=True, exist_ok=True)
            for shot in range(EACH):
                scene = scenes.scene(
                    shot, include=(kind,), exclude=tuple(c for c in scenes.classes if c != kind)
                )
                Image.fromarray(scene.image).save(part / f"{shot}.png")
                mask = (scene.mask == kind + 1).astype(numpy.uint8) * 255
                Image.fromarray(mask).save(part / f"{shot}_mask.png")
    pile = folder / "scenes"
    with said_of_disk(pile):
        pile.mkdir(parents=True, exist_ok=True)
        for index in range(SCENES):
            # Every fourth scene shows none of the three kinds: "absent" is an answer.
            wanted = () if index % 4 == 3 else (KINDS[index % 3],)
            absent = tuple(c for c in KINDS if c not in wanted)
            scene = scenes.scene(100 + index, include=wanted, exclude=absent if wanted else KINDS)
            Image.fromarray(scene.image).save(pile / f"{index:02d}.png")


def demo(out: Path, *, seed: int = 0, quiet: bool = False) -> PredictionRun:
    """Write the digits under `out`, predict, and name three next commands.

    A second call replaces the first's result.
    """
    out = Path(out)
    with quieted(quiet):
        say(f"Ten handwritten digits, {SHOTS} labelled photos of each; {10 * QUERIES} photos to label.")
        write_digits(out, seed=seed)
        run = predict(
            out / "labelled", out / "pile", out / "run", reject=0.05, seed=seed, force=True, quiet=quiet
        )
        say(f"Objects of three kinds: {EACH} scenes of each with masks; {SCENES} scenes to search.")
        write_objects(out / "objects", seed=seed)
        found = segment(
            out / "objects" / "labelled",
            out / "objects" / "scenes",
            out / "where",
            seed=seed,
            force=True,
            quiet=quiet,
        )
    return run.with_next_steps(
        f"Open the report:            {run.folder / 'report.html'}",
        f"See where objects are:      {found.folder / 'report.html'}",
        f"Look at a folder of yours:  fewsight doctor {out / 'labelled'} {out / 'pile'}",
        "Find objects in photos:     fewsight segment LABELLED PILE --out where",
        "Label photos of yours:      fewsight predict LABELLED PILE --out run --reject 0.05",
        f"Use the model again:        fewsight predict {run.folder / 'model'} {out / 'pile'} --out again",
    )
