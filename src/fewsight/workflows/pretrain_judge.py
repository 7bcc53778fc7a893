"""How `pretrain` is watched and judged: k-NN on labelled photos while it runs, and a verdict on photos it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.data.collection import Collection
from fewsight.data.store import PixelStore
from fewsight.protocols.verdict import Verdict, judge_features
from fewsight.seeding import numpy_generator
from fewsight.training.balanced_source import plain_view
from fewsight.training.watch import held_features
from fewsight.training.watch_neighbours import NeighbourProbe
from fewsight.workflows.training_run import stored_once

__all__ = ["Judged", "held_out_of_classes", "held_out_rows", "judged_photos", "judged_store"]

FEWEST_OF_A_CLASS = 2  # held-out photos, for one to be learnt from and one to be judged
MOST_JUDGED = 2000
LOOKED_AT = 50_000  # photos of a set that is too large to look at each


def held_out_rows(
    collection: Collection, usable: NDArray[numpy.bool_], share: float, groups: list[str] | None, seed: int
) -> NDArray[numpy.int64]:
    """Photos with one label that the training leaves to the verdict: about `share` of each class, whole groups.

    Photos of a split named test or val are taken first; with none, a draw that is a function of the seed. Nothing is
    held out where labels are missing or a photo has several.
    """
    single = usable & collection.labelled()
    if share == 0 or not single.any() or (collection.membership().sum(1) > 1).any():
        return numpy.zeros(0, numpy.int64)
    for name in ("test", "val", "valid"):
        if name in collection.split_names:
            rows = numpy.flatnonzero(single & collection.in_split(name))
            if len(rows):
                return _at_most(rows, MOST_JUDGED, seed)
    rows = numpy.flatnonzero(single)
    targets = collection.membership().argmax(1)[rows]
    names = numpy.array([str(row) for row in rows] if groups is None else [groups[row] for row in rows])
    order = numpy_generator(seed, "held out for the verdict").permutation(len(rows))
    taken: set[str] = set()
    for k in numpy.unique(targets):
        own = [str(names[i]) for i in order if targets[i] == k]
        wanted = max(FEWEST_OF_A_CLASS, round(share * len(own))) if len(own) > 2 * FEWEST_OF_A_CLASS else 0
        for name in own:
            if sum(n in taken for n in own) >= wanted:
                break
            taken.add(name)
    chosen = rows[numpy.isin(names, sorted(taken))]
    return _at_most(chosen, MOST_JUDGED, seed)


def held_out_of_classes(labels: NDArray[numpy.int32], share: float, seed: int) -> NDArray[numpy.int64]:
    """`held_out_rows` for sets too large to look at each photo: from some of them, drawn by the seed.

    Args:
        labels: class of each photo, -1 for none, `[N]`.

    Returns:
        Rows, ascending: about `share` of each class or some ten photos of it, two at least, 2,000 in all at most.
    """
    N = len(labels)
    generator = numpy_generator(seed, "held out for the verdict")
    looked_at = generator.permutation(N) if N <= LOOKED_AT else generator.choice(N, LOOKED_AT, replace=False)
    found = labels[numpy.sort(looked_at)]
    looked_at = numpy.sort(looked_at)[found >= 0]
    found = found[found >= 0]
    classes = generator.permutation(numpy.unique(found)) if share else found[:0]
    most = max(10, MOST_JUDGED // max(1, len(classes)))
    taken: list[NDArray[numpy.int64]] = []
    for k in classes:
        own = generator.permutation(looked_at[found == k])
        wanted = max(FEWEST_OF_A_CLASS, min(most, round(share * len(own))))
        if len(own) > 2 * FEWEST_OF_A_CLASS and sum(map(len, taken)) + wanted <= MOST_JUDGED:
            taken.append(own[:wanted])
    return numpy.sort(numpy.concatenate([*taken, numpy.zeros(0, numpy.int64)])).astype(numpy.int64)


def _at_most(rows: NDArray[numpy.int64], most: int, seed: int) -> NDArray[numpy.int64]:
    if len(rows) <= most:
        return rows
    return numpy.sort(numpy_generator(seed, "judged photos").choice(rows, most, replace=False))


@dataclass(frozen=True)
class Judged:
    """Held-out photos as a backbone takes them.

    Attributes:
        images: normalised `[N, 3, H, W]`.
        labels: classes that occur, counted from 0, int64 `[N]`.
        groups: a name for each, or None.
        before: features of the old backbone `[N, D]`.
    """

    images: Tensor
    labels: Tensor
    groups: list[str] | None
    before: Tensor

    def probe(self) -> NeighbourProbe | None:
        """k-NN for the loop's log; it only watches, and chooses nothing. None where a class has one photo."""
        counts = torch.bincount(self.labels)
        return NeighbourProbe(self.images, self.labels) if len(counts) > 1 and int(counts.max()) > 1 else None

    def verdict(self, after: Backbone, seed: int) -> Verdict:
        """Before and after, on these photos."""
        return judge_features(
            self.before,
            held_features(after, self.images),
            self.labels,
            groups=self.groups,
            names=("the backbone as it was", "the pretrained one"),
            seed=seed,
        )


def judged_photos(
    collection: Collection,
    rows: NDArray[numpy.int64],
    groups: list[str] | None,
    backbone: Backbone,
    folder: Path,
    *,
    workers: int | None = None,
) -> Judged | None:
    """Held-out photos, decoded as for evaluation and encoded by the old backbone; None where there are none."""
    if not len(rows):
        return None
    store = stored_once(collection.select(rows), backbone.transform, folder, workers=workers)
    labels = collection.membership()[rows].argmax(1)
    return judged_store(
        store, labels, None if groups is None else [groups[row] for row in rows.tolist()], backbone
    )


def judged_store(
    store: PixelStore, labels: NDArray[numpy.integer], groups: list[str] | None, backbone: Backbone
) -> Judged | None:
    """Held-out photos of a store with a label for each of its rows; what could not be read is left out."""
    rows = numpy.array([row for row in range(len(store)) if row not in store.unreadable], numpy.int64)
    if not len(rows):
        return None
    images = plain_view(store, rows, backbone.transform)
    _, classes = numpy.unique(labels[rows], return_inverse=True)
    chosen = None if groups is None else [groups[row] for row in rows.tolist()]
    return Judged(images, torch.from_numpy(classes), chosen, held_features(backbone, images))
