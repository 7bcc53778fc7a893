"""The published test episodes of few-shot classification and segmentation on Pascal-5i and COCO-20i, replayed.

Dahyun Kang and Minsu Cho, "Integrative Few-Shot Learning for Classification and Segmentation", CVPR 2022; the same
episodes in CST (Kang et al., CVPR 2023): 1000 for each fold, number i drawn with the legacy generator of seed i.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy
from numpy.typing import NDArray

from fewsight.data.splits import coco20i_images, pascal5i_images
from fewsight.errors import InvalidInput

__all__ = ["FscsEpisode", "published_fscs_episode"]

FOLDS = 4


class FscsEpisode(NamedTuple):
    """A query image and the supports of each way, in the order of the draw.

    Images are numbers: 2007000033 stands for 2007_000033 of Pascal, of COCO it is the number in the file name.
    """

    query: int
    support_classes: NDArray[numpy.int64]  # [way], counted from 1; the query's class need not be among them
    support: NDArray[numpy.int64]  # [way, shot]


def published_fscs_episode(
    index: int, *, benchmark: Literal["pascal", "coco"] = "pascal", fold: int, way: int, shot: int
) -> FscsEpisode:
    """Episode `index` of a fold, as the authors' code draws it from the published validation lists.

    Raises:
        InvalidInput: there is no such benchmark, fold or way, or a class has too few images for the shots.
    """
    if benchmark not in ("pascal", "coco"):
        raise InvalidInput(f"benchmark is {benchmark!r}; expected 'pascal' or 'coco'.")
    if not 0 <= fold < FOLDS:
        raise InvalidInput(f"fold is {fold}; expected 0, 1, 2 or 3.")
    images = _validation_images(benchmark, fold)
    classes = sorted(images)
    if not 1 <= way <= len(classes):
        raise InvalidInput(f"way is {way}; expected 1 to {len(classes)}, the classes of a fold.")
    if shot < 1:
        raise InvalidInput(f"shot is {shot}; expected at least 1.")
    rng = numpy.random.RandomState(index)
    if benchmark == "pascal":
        lines, line_classes = pascal5i_images("val", fold)
        place = index % len(lines)
        query, query_class = int(lines[place]), int(line_classes[place])
    else:
        query_class = int(rng.choice(classes, 1, replace=False)[0])
        query = int(rng.choice(images[query_class], 1, replace=False)[0])
    # The query's class is drawn with probability 1/2, so that half of the 1-way queries lack the class.
    others = 1 / (2 * (len(classes) - 1))
    chances = [0.5 if one == query_class else others for one in classes]
    support_classes = rng.choice(classes, way, p=chances, replace=False)
    support = [_draw_supports(images[one], query, shot, rng) for one in support_classes.tolist()]
    return FscsEpisode(query, support_classes.astype(numpy.int64), numpy.array(support, dtype=numpy.int64))


def _draw_supports(
    images: NDArray[numpy.int64], query: int, shot: int, rng: numpy.random.RandomState
) -> list[int]:
    """Distinct images other than the query, each drawn again until it is new."""
    if len(set(images.tolist()) - {query}) < shot:
        raise InvalidInput(f"shot is {shot}, but a class has only {len(images)} images.")
    chosen: list[int] = []
    while len(chosen) < shot:
        # Without replacement the legacy generator shuffles the whole list: another stream than one index would use.
        image = int(rng.choice(images, 1, replace=False)[0])
        if image != query and image not in chosen:
            chosen.append(image)
    return chosen


@lru_cache(maxsize=8)
def _validation_images(benchmark: str, fold: int) -> dict[int, NDArray[numpy.int64]]:
    """The images of each class of a fold, in the order of the lists."""
    if benchmark == "coco":
        return coco20i_images("val", fold)
    lines, classes = pascal5i_images("val", fold)
    return {int(one): lines[classes == one] for one in numpy.unique(classes)}
