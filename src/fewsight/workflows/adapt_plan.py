"""Which photos `adapt` trains on, which choose the step to keep, and which are judged: never the same ones.

The verdict needs enough photos to show a gain (`protocols.verdict.enough_photos`). Where holding out a part of each
class does not yield them, nothing is held out: the photos serve the training, and the verdict is "not judged".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from fewsight.data.collection import Collection
from fewsight.errors import InvalidInput
from fewsight.protocols.verdict import enough_photos
from fewsight.seeding import numpy_generator

__all__ = ["PhotoPlan", "plan_photos"]

Rows = NDArray[numpy.int64]
MOST_JUDGED = 0.5  # of a class, where the share asked for is too little for a verdict
FEWEST_FOR_STOPPING = 5  # photos of a class from which some may choose the step


@dataclass(frozen=True)
class PhotoPlan:
    """Rows of a collection, ascending and disjoint.

    Attributes:
        train, stop, judged: see the module.
        remarks: how they were found, in words.
    """

    train: Rows
    stop: Rows
    judged: Rows
    remarks: tuple[str, ...]


def plan_photos(
    collection: Collection,
    labels: Rows,
    *,
    judged_share: float,
    stop_share: float,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> PhotoPlan:
    """Part the photos by the splits of the data, or by chance within each class.

    Args:
        collection: photos, perhaps with splits.
        labels: class of each photo, -1 for those that are not to be used.
        judged_share: of each class for the verdict, where there is no split `test`.
        stop_share: of the training photos of each class to choose the step, where there is no split `val`; 0 = none.
        groups: a name for each photo; photos of a group stay together.
        seed: of the draws.

    Raises:
        InvalidInput: fewer than two classes to train on.
    """
    units = _unit_numbers(groups, len(labels))
    usable = labels >= 0
    _check_classes(collection, labels, usable)
    names = collection.split_names
    remarks: list[str] = []
    if "test" in names:
        judged = collection.in_split("test") & usable
        remarks.append(f"Judged on the split test ({int(judged.sum())} photos).")
    else:
        judged = _judged_by_chance(labels, units, usable, judged_share, seed, remarks)
    train = usable & ~judged & ~numpy.isin(units, units[judged])
    if "test" in names and "train" in names:
        train &= collection.in_split("train") | _named(collection, "val")
    if "val" in names and stop_share:
        stop = _named(collection, "val") & train
    else:
        stop = _drawn(labels, units, train, stop_share, seed, "stopping photos", FEWEST_FOR_STOPPING)
    train &= ~stop & ~numpy.isin(units, units[stop])
    _check_classes(collection, labels, train)
    known = numpy.isin(labels, labels[train])
    return PhotoPlan(
        numpy.flatnonzero(train),
        numpy.flatnonzero(stop & known),
        numpy.flatnonzero(judged & known),
        tuple(remarks),
    )


def _judged_by_chance(
    labels: Rows, units: Rows, usable: NDArray[numpy.bool_], share: float, seed: int, remarks: list[str]
) -> NDArray[numpy.bool_]:
    enough = enough_photos()
    for part in (share, MOST_JUDGED):
        judged = _drawn(labels, units, usable, part, seed, "judged photos", 3)
        if len(numpy.unique(units[judged])) >= enough:
            remarks.append(
                f"{int(judged.sum())} of {int(usable.sum())} photos, some of each class, are held out for the verdict."
            )
            return judged
    remarks.append(
        f"No photo is held out: half of each class would be {len(numpy.unique(units[judged]))}, and a verdict needs "
        f"{enough}. All photos are trained on."
    )
    return numpy.zeros(len(labels), dtype=bool)


def _drawn(
    labels: Rows,
    units: Rows,
    among: NDArray[numpy.bool_],
    share: float,
    seed: int,
    stream: str,
    fewest: int,
) -> NDArray[numpy.bool_]:
    """A share of the photos (or groups) of each class that has `fewest` of them; at least one stays."""
    chosen = numpy.zeros(len(labels), dtype=bool)
    if not share:
        return chosen
    for k in numpy.unique(labels[among]).tolist():
        own = numpy.unique(units[among & (labels == k)])
        if len(own) < fewest:
            continue
        order = numpy_generator(seed, stream, k).permutation(own)
        taken = order[: min(len(own) - 1, int(share * len(own) + 1e-9))]
        chosen |= among & (labels == k) & numpy.isin(units, taken)
    return chosen


def _unit_numbers(groups: Sequence[str] | None, count: int) -> Rows:
    if groups is None:
        return numpy.arange(count)
    return numpy.unique(numpy.asarray(groups), return_inverse=True)[1].astype(numpy.int64)


def _named(collection: Collection, split: str) -> NDArray[numpy.bool_]:
    if split not in collection.split_names:
        return numpy.zeros(len(collection), dtype=bool)
    return collection.in_split(split)


def _check_classes(collection: Collection, labels: Rows, train: NDArray[numpy.bool_]) -> None:
    there = numpy.unique(labels[train])
    if len(there) < 2:
        found = f"one class ({collection.classes[there[0]]!r})" if len(there) else "no class"
        count = int(train.sum())
        raise InvalidInput(
            f"there {'is' if count == 1 else 'are'} {count} labelled photo{'' if count == 1 else 's'} to train on, of "
            f"{found}; adapt needs two classes or more, with a readable photo each. Put the photos of each class "
            "into a folder named for it; `fewsight doctor` says what cannot be read."
        )
