"""`fewsight demo`: the main job on real data that comes with scikit-learn, offline.

The handwritten digits of the UCI repository (Alpaydin and Kaynak 1998; 1,797 pictures of 8 x 8 pixels) are written as
ordinary photos: five of each digit labelled, thirty of each in a pile. Then it is `fewsight predict` that runs, as
anybody would call it.
"""

from __future__ import annotations

from pathlib import Path

import numpy

from fewsight.files import said_of_disk
from fewsight.progress import quieted, say
from fewsight.seeding import numpy_generator
from fewsight.workflows.predict import PredictionRun, predict

__all__ = ["demo", "write_digits"]

SHOTS, QUERIES = 5, 30
SIDE = 96  # pixels: each of the 8 x 8 becomes a smooth blob


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
    return run.with_next_steps(
        f"Open the report:            {run.folder / 'report.html'}",
        f"Look at a folder of yours:  fewsight doctor {out / 'labelled'} {out / 'pile'}",
        "Label photos of yours:      fewsight predict LABELLED PILE --out run --reject 0.05",
        f"Use the model again:        fewsight predict {run.folder / 'model'} {out / 'pile'} --out again",
    )
