"""Procedural scenes against a threshold on colour: what colour alone can find of a class, and a picture of it.

Colour is given every advantage: for each class a histogram of 8 x 8 x 8 colours inside and outside of the masks of 20
scenes, the likelihood ratio of every pixel, and the threshold that is best on the very scenes that are tested.

    python benchmarks/scenes_colour.py [--picture docs/_static/scenes_colour.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy
from numpy.typing import NDArray

from fewsight.data.scenes import Scene, Scenes
from fewsight.evaluation.intervals import mean_interval

BINS, LEARNT, TESTED = 8, 20, 20


def binned(scene: Scene) -> NDArray[numpy.int64]:
    """Colour bin of each pixel."""
    cells = (scene.image.astype(numpy.int64) * BINS) // 256
    return (cells[..., 0] * BINS + cells[..., 1]) * BINS + cells[..., 2]


def colour_scores(learnt: list[Scene], number: int, tested: list[Scene]) -> list[NDArray[numpy.float64]]:
    """Log likelihood ratio of each pixel of each tested scene."""
    inside, outside = numpy.ones(BINS**3), numpy.ones(BINS**3)
    for scene in learnt:
        bins, own = binned(scene), scene.mask == number + 1
        inside += numpy.bincount(bins[own], minlength=BINS**3)
        outside += numpy.bincount(bins[~own], minlength=BINS**3)
    ratio = numpy.log(inside / inside.sum()) - numpy.log(outside / outside.sum())
    return [ratio[binned(scene)] for scene in tested]


def best_iou(scores: list[NDArray[numpy.float64]], truths: list[NDArray[numpy.bool_]]) -> tuple[float, float]:
    """The largest pooled IoU over thresholds, and its threshold."""
    levels = numpy.quantile(numpy.concatenate([s.ravel() for s in scores]), numpy.linspace(0, 0.99, 60))
    found = []
    for level in levels:
        both = sum(((s >= level) & t).sum() for s, t in zip(scores, truths, strict=True))
        either = sum(((s >= level) | t).sum() for s, t in zip(scores, truths, strict=True))
        found.append((both / max(1, either), level))
    return max(found)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    scenes = Scenes(seed=0, split="novel", size=96)
    colour, whole, strips = [], [], []
    for number in scenes.classes:
        learnt = [scenes.scene(n, include=(number,)) for n in range(LEARNT)]
        tested = [scenes.scene(500 + n, include=(number,)) for n in range(TESTED)]
        truths = [scene.mask == number + 1 for scene in tested]
        scores = colour_scores(learnt, number, tested)
        value, level = best_iou(scores, truths)
        colour.append(value)
        whole.append(sum(t.sum() for t in truths) / sum(t.size for t in truths))
        if len(strips) < 4:
            strips.append((tested[0].image, truths[0], scores[0] >= level))
    print(
        f"colour, best threshold on the test: mean IoU over 12 novel classes {mean_interval(colour).percent()}"
    )
    print(f"whole image:                        {mean_interval(whole).percent()}")
    if options.picture is not None:
        draw(strips, options.picture)


def draw(
    strips: list[tuple[NDArray[numpy.uint8], NDArray[numpy.bool_], NDArray[numpy.bool_]]], path: Path
) -> None:
    """Scene, its mask, and what colour finds, side by side for each class."""
    from PIL import Image

    rows = []
    for image, truth, found in strips:
        panels = [
            image,
            *(numpy.repeat((m * 255).astype(numpy.uint8)[..., None], 3, 2) for m in (truth, found)),
        ]
        rows.append(numpy.concatenate(panels, axis=1))
    Image.fromarray(numpy.concatenate(rows)).resize((576, 768), Image.Resampling.NEAREST).save(
        path, optimize=True
    )


if __name__ == "__main__":
    main()
