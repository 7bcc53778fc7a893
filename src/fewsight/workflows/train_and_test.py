"""Which photos are learnt from and which are judged: the splits of the data, or halves of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from fewsight.data.collection import Collection
from fewsight.errors import InvalidInput
from fewsight.seeding import numpy_generator

__all__ = ["TrainAndTest", "train_and_test"]


@dataclass(frozen=True)
class TrainAndTest:
    """Rows of a collection, each side ascending.

    Attributes:
        train: to learn from, int64.
        test: to be judged, int64.
        remarks: how they were found and what was left out, in words.
    """

    train: NDArray[numpy.int64]
    test: NDArray[numpy.int64]
    remarks: tuple[str, ...]


def train_and_test(
    collection: Collection,
    groups: Sequence[str] | NDArray[numpy.int64] | None = None,
    *,
    duplicates: NDArray[numpy.int64] | None = None,
    seed: int = 0,
) -> TrainAndTest:
    """The splits `train` and `test` (else `val`) of the data; without them, halves of each class by chance.

    Args:
        groups: a name or number for each photo; photos of a group stand on one side. With the splits of the data,
            test photos whose group is also in the training split are left out.
        duplicates: a number for all photos of one picture: the same for them.
        seed: of the halves.

    Raises:
        InvalidInput: one side is empty.
    """
    names = collection.split_names
    judged = next((name for name in ("test", "val") if name in names), None)
    if "train" in names and judged is not None:
        train = numpy.flatnonzero(collection.in_split("train"))
        test = numpy.flatnonzero(collection.in_split(judged))
        remarks = [
            f"Learnt from the split train ({len(train)} photos), judged on {judged} ({len(test)} photos)."
        ]
        for codes, reason in (
            (duplicates, "copies, or nearly so, of photos that were learnt from"),
            (groups, "their group is in the training split"),
        ):
            test, left_out = _unshared(train, test, codes)
            if left_out:
                remarks.append(f"{left_out} test photos left out: {reason}.")
    else:
        train, test = _halves(collection, joined(groups, duplicates), seed)
        remarks = [
            f"The data has no splits train and test: learnt from {len(train)} photos drawn by seed {seed}, "
            f"judged on the other {len(test)}."
        ]
    if not len(train) or not len(test):
        raise InvalidInput(
            f"{len(train)} photos are there to learn from and {len(test)} to be judged; give more photos."
        )
    return TrainAndTest(train, test, tuple(remarks))


def joined(
    groups: Sequence[str] | NDArray[numpy.int64] | None, duplicates: NDArray[numpy.int64] | None
) -> NDArray[numpy.int64] | None:
    """Both at once, int64 [N]: one number for all that groups and duplicates link, over any number of steps."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if groups is None:
        return duplicates
    codes = numpy.unique(numpy.asarray(groups), return_inverse=True)[1].astype(numpy.int64)
    if duplicates is None or not len(codes):
        return codes
    others = duplicates + int(codes.max()) + 1
    nodes = int(others.max()) + 1
    links = coo_array((numpy.ones(len(codes)), (codes, others)), shape=(nodes, nodes))
    return connected_components(links, directed=False)[1][codes].astype(numpy.int64)


def _unshared(
    train: NDArray[numpy.int64],
    test: NDArray[numpy.int64],
    codes: Sequence[str] | NDArray[numpy.int64] | None,
) -> tuple[NDArray[numpy.int64], int]:
    """Test rows whose code is not among those of the training rows, and how many others there were."""
    if codes is None:
        return test, 0
    shared = numpy.isin(numpy.asarray(codes)[test], numpy.asarray(codes)[train])
    return test[~shared], int(shared.sum())


def _halves(
    collection: Collection, groups: NDArray[numpy.int64] | None, seed: int
) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
    """Halves of the photos (or groups) of each class, by their first label; the larger one is learnt from."""
    count = len(collection)
    names = numpy.arange(count) if groups is None else groups
    _, first, unit = numpy.unique(names, return_index=True, return_inverse=True)
    labels = numpy.array([collection.labels_of(int(row))[0] for row in first])
    learnt = numpy.zeros(len(first), bool)
    for k in numpy.unique(labels).tolist():
        units = numpy_generator(seed, "train and test", k).permutation(numpy.flatnonzero(labels == k))
        learnt[units[: -(-len(units) // 2)]] = True
    return numpy.flatnonzero(learnt[unit]), numpy.flatnonzero(~learnt[unit])
