"""Any folder with masks as a few-shot benchmark: classes in folds, photos on one side or the other.

The rule, so that two people get the same benchmark from the same folder: class k of the collection's order (natural
order of the names) stands in fold k mod F, as COCO-20i does it; F = 4, or fewer where a fold would have less than two
classes. The classes of a fold are novel, all others are base.

No photo is in both training and test. A photo that shows a novel class is for the test, the rest is for training. Where
more than half of all photos would go to the test (a scene shows many things), photos of the splits `train` (and `val`)
are for training and those of `test` for the test, or, without splits, seeded halves; there a training photo may show a
novel class, whose pixels are then background, as in the published benchmarks.

Letters: N photos, C classes, F folds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from fewsight.data.collection import Collection
from fewsight.errors import InvalidInput
from fewsight.seeding import numpy_generator

__all__ = ["ClassFold", "class_fold", "divided", "fold_count", "photos_of_classes"]

FOLDS = 4


class ClassFold(NamedTuple):
    """Class ids, and rows of the collection: `training` shows base classes, `test` novel ones."""

    base: tuple[int, ...]
    novel: tuple[int, ...]
    training: NDArray[numpy.int64]
    test: NDArray[numpy.int64]


def fold_count(classes: int) -> int:
    """F for so many classes: 4, or as many as leave two classes a fold, at least 1.

    >>> [fold_count(n) for n in (1, 2, 3, 4, 6, 15)]
    [1, 1, 1, 2, 3, 4]
    """
    return max(1, min(FOLDS, classes // 2))


def class_fold(
    collection: Collection, fold: int, *, folds: int | None = None, least: int = 2, seed: int = 0
) -> ClassFold:
    """Fold `fold` of a collection.

    Args:
        folds: F; None for `fold_count` of the classes that have `least` photos.
        least: classes with fewer photos are neither base nor novel.
        seed: of the halves, where they are drawn.

    Raises:
        InvalidInput: there is no such fold, or no class has enough photos.
    """
    counts = collection.counts()
    able = [number for number in range(len(collection.classes)) if counts[number] >= least]
    if not able:
        raise InvalidInput(f"no class has {least} photos; episodes need a support and a query.")
    total = fold_count(len(able)) if folds is None else folds
    if not 0 <= fold < total <= len(able):
        raise InvalidInput(f"fold is {fold} of {total}, of {len(able)} classes; expected 0 to {total - 1}.")
    novel = tuple(able[fold::total])
    base = tuple(number for number in able if number not in novel)
    if total == 1:
        return ClassFold((), novel, numpy.empty(0, numpy.int64), numpy.arange(len(collection)))
    return ClassFold(base, novel, *divided(collection, novel, numpy.arange(len(collection)), seed=seed))


def divided(
    collection: Collection,
    classes: tuple[int, ...],
    rows: NDArray[numpy.int64],
    *,
    seed: int = 0,
    share: float = 0.5,
) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
    """Rows without, and rows that show, some classes, by the rule above.

    Args:
        rows: of the collection that are divided.
        share: of the rows that become the second side where over half of them show a class and no splits tell.
    """
    shows = photos_of_classes(collection, classes)[rows]
    if 2 * shows.sum() <= len(rows):
        return rows[~shows], rows[shows]
    second = _second_side(collection, rows, seed, share)
    return rows[~second], rows[second & shows]


def photos_of_classes(collection: Collection, classes: tuple[int, ...]) -> NDArray[numpy.bool_]:
    """Which photos have one of these classes among their labels, bool [N]."""
    wanted = numpy.isin(collection.labels, numpy.asarray(classes))
    owner = numpy.repeat(numpy.arange(len(collection)), numpy.diff(collection.label_offsets))
    shown = numpy.zeros(len(collection), dtype=bool)
    shown[owner[wanted]] = True
    return shown


def _second_side(
    collection: Collection, rows: NDArray[numpy.int64], seed: int, share: float
) -> NDArray[numpy.bool_]:
    """Which rows are for the test where photos show many things, bool [len(rows)]."""
    if {"train", "test"} <= set(collection.split_names):
        second = numpy.asarray(collection.in_split("test"), dtype=bool)[rows]
        if 0 < second.sum() < len(rows):
            return second
    order = numpy_generator(seed, "halves of photos").permutation(len(rows))
    second = numpy.zeros(len(rows), dtype=bool)
    second[order[: max(1, round(share * len(rows)))]] = True
    return second
