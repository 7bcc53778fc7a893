"""Batches of labelled photos from a store, as many of each class: number of the batch -> `Batch` with views.

Batch b takes P classes and K photos of each. Classes come in rounds: a round is a permutation of all of them, cut into
batches, so that a short run visits each class as often as any other. The photos of a class come in the same way; a
class with fewer than K photos gives some of them again, which are augmented anew. `Shuffled` is the plain order of an
epoch, which the published code uses. Everything is a function of (seed, number of the batch).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight import distributed
from fewsight.data.pipelines import Augmentation, augmented, draws_of
from fewsight.data.store import PixelStore
from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput
from fewsight.objectives.objective import Batch
from fewsight.seeding import numpy_generator

__all__ = ["Balanced", "BatchRows", "LabelledViews", "Shuffled", "plain_view"]

BatchRows = Callable[[int], NDArray[numpy.int64]]  # number of a batch -> rows of the store


@dataclass(frozen=True)
class Balanced:
    """Rows of class-balanced batches.

    Attributes:
        by_class: rows of each class, none empty.
        classes: P, at most as many as there are.
        photos: K.
        seed: of the draws.

    >>> rows = Balanced([numpy.arange(3), numpy.arange(3, 9)], classes=2, photos=2)(0)
    >>> sorted((rows >= 3).tolist())
    [False, False, True, True]
    """

    by_class: Sequence[NDArray[numpy.int64]]
    classes: int
    photos: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.classes < 1 or self.photos < 1:
            raise InvalidInput(
                f"a batch of {self.classes} classes and {self.photos} photos of each; expected at least 1."
            )
        if not self.by_class or min(len(rows) for rows in self.by_class) == 0:
            raise InvalidInput("by_class holds a class without a photo; leave it out.")

    def __call__(self, number: int) -> NDArray[numpy.int64]:
        total = len(self.by_class)
        wanted = min(self.classes, total)
        batches = -(-total // wanted)  # of a round; the last one is filled up with classes of its beginning
        turn, place = divmod(number, batches)
        order = numpy_generator(self.seed, "class order", turn).permutation(total)
        chosen = numpy.take(order, range(place * wanted, (place + 1) * wanted), mode="wrap")
        filled = place * wanted + numpy.arange(wanted) >= total
        streams = ["photo order of a filling" if again else "photo order" for again in filled]
        return numpy.concatenate(
            [self._photos(int(k), turn, stream) for k, stream in zip(chosen, streams, strict=True)]
        )

    def _photos(self, k: int, visit: int, stream: str) -> NDArray[numpy.int64]:
        """K photos of class k at its `visit`-th visit: the next ones in rounds through its photos."""
        rows = self.by_class[k]
        places = visit * self.photos + numpy.arange(self.photos)
        turns = places // len(rows)
        orders = {
            int(turn): numpy_generator(self.seed, stream, k, int(turn)).permutation(rows)
            for turn in numpy.unique(turns)
        }
        return numpy.array(
            [orders[int(turn)][int(place)] for turn, place in zip(turns, places % len(rows), strict=True)]
        )


@dataclass(frozen=True)
class Shuffled:
    """Rows of batches cut from epochs, each a permutation of all rows laid end to end: every batch is full.

    The published code drops or shortens the last batch of an epoch, which changes the contrast set.
    """

    rows: NDArray[numpy.int64]
    size: int
    seed: int = 0

    def __call__(self, number: int) -> NDArray[numpy.int64]:
        if not len(self.rows) or self.size < 1:
            raise InvalidInput(f"batches of {self.size} from {len(self.rows)} photos; expected at least 1.")
        places = number * self.size + numpy.arange(self.size)
        epochs, within = numpy.divmod(places, len(self.rows))
        orders = {
            int(epoch): numpy_generator(self.seed, "epoch order", int(epoch)).permutation(self.rows)
            for epoch in numpy.unique(epochs)
        }
        return numpy.array([orders[int(e)][int(w)] for e, w in zip(epochs, within, strict=True)])


@dataclass(frozen=True)
class LabelledViews:
    """Batches of views; on several processes each takes its own photos of the batch.

    Attributes:
        store: pixels of all photos.
        labels: class of each row of the store, int [N].
        rows: which photos a batch has.
        pipelines: one for each view; None is the photo as the backbone sees it otherwise.
        transform: size, mean and std.
        seed: of the augmentation.
        device: where the batches are put.
    """

    store: PixelStore
    labels: NDArray[numpy.int64]
    rows: BatchRows
    pipelines: Sequence[Augmentation | None]
    transform: Transform
    seed: int = 0
    device: torch.device | str = "cpu"

    def __call__(self, number: int) -> Batch:
        whole = self.rows(number)
        own = slice(distributed.rank(), None, distributed.world_size())
        samples = (number * len(whole) + numpy.arange(len(whole)))[own]
        rows = whole[own]
        pixels = self.store.rows(rows).to(self.device)
        views = tuple(
            self._view(pixels, view, pipeline, samples) for view, pipeline in enumerate(self.pipelines)
        )
        return Batch(
            images=views,
            labels=torch.from_numpy(self.labels[rows]).to(self.device),
            index=torch.from_numpy(rows),
            step=number,
            seed=self.seed,
        )

    def _view(
        self, pixels: Tensor, view: int, pipeline: Augmentation | None, samples: NDArray[numpy.int64]
    ) -> Tensor:
        if pipeline is None:
            return normalised(pixels.float() / 255, self.transform)
        draws = draws_of(self.seed, view, samples)
        return normalised(augmented(pixels, pipeline, self.transform.size, draws), self.transform)


def plain_view(store: PixelStore, rows: NDArray[numpy.int64], transform: Transform) -> Tensor:
    """Photos of a store as the backbone sees them outside training, float32 `[R, 3, H, W]`."""
    return normalised(store.rows(rows).float() / 255, transform)


def normalised(pixels: Tensor, transform: Transform) -> Tensor:
    """Floats in [0, 1] `[B, 3, H, W]` by mean and std of the transform; changes and gives its input."""
    mean = pixels.new_tensor(transform.mean)[:, None, None]
    std = pixels.new_tensor(transform.std)[:, None, None]
    return pixels.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)
