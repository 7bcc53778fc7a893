"""Batches of augmented views from stored photos: number of the batch -> `Batch`.

Photos come in an order of their own in each epoch, a function of (seed, epoch); photo and place in the run decide its
views. A global batch is cut into equal parts for the ranks, so two processes see together what one would see. Views are
made on the device that trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight import distributed
from fewsight.data.pipelines import Kind, augmentation, augmented, draws_of, for_kind
from fewsight.data.transform import Transform
from fewsight.data.views import ViewSpec
from fewsight.errors import InvalidInput
from fewsight.objectives.objective import Batch
from fewsight.seeding import numpy_generator
from fewsight.training.balanced_source import normalised

__all__ = ["Order", "Photos", "ViewSource", "epoch_rows"]


class Photos(Protocol):
    """Decoded photos of one size: a `PixelStore`, `ResidentPhotos` on a device, or `ShardPhotos`."""

    def __len__(self) -> int: ...

    def rows(self, index: Sequence[int] | numpy.ndarray) -> Tensor:
        """uint8 `[B, 3, H, W]`."""
        ...


class Order(Protocol):
    """Which photos take part, in an order of its own: a `ShardOrder`."""

    def __len__(self) -> int: ...

    @property
    def places(self) -> int:
        """How many photos an epoch sees: those of whole batches."""
        ...

    def rows(self, epoch: int, first: int, last: int, seed: int) -> NDArray[numpy.int64]:
        """Rows of the photos at places `first .. last - 1` of an epoch."""
        ...


@lru_cache(maxsize=4)
def epoch_rows(count: int, epoch: int, seed: int) -> NDArray[numpy.int64]:
    """The order of `count` photos in an epoch: a permutation that is a function of (seed, epoch)."""
    return numpy_generator(seed, "order of photos", epoch).permutation(count)


@dataclass(frozen=True)
class ViewSource:
    """Makes the views that an objective declares.

    Attributes:
        photos: where the pixels are.
        rows: of `photos` that take part, which are shuffled in each epoch; or an order of its own.
        views: as the objective declares them.
        transform: mean and std of the backbone.
        batch_size: photos of a batch over all ranks; cut to the number of photos.
        seed: of the run.
        kind: of the pictures; decides what the pipelines leave out.
        labels: int, one for each row of `photos`, for objectives and probes that want them.
        device: where views are made and batches lie.
    """

    photos: Photos
    rows: NDArray[numpy.int64] | Order
    views: tuple[ViewSpec, ...]
    transform: Transform
    batch_size: int
    seed: int = 0
    kind: Kind = "photos"
    labels: NDArray[numpy.int64] | None = field(default=None, compare=False)
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if not len(self.rows):
            raise InvalidInput("there are no photos to make views of.")
        if not self.views:
            raise InvalidInput("the objective declares no views.")
        if self.size % distributed.world_size():
            raise InvalidInput(
                f"a batch of {self.size} photos cannot be cut into equal parts for {distributed.world_size()} ranks: "
                f"choose a batch size that {distributed.world_size()} divides, not above the number of photos."
            )

    @property
    def size(self) -> int:
        """Photos of a batch over all ranks."""
        return min(self.batch_size, len(self.rows))

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches; what is left over takes part in the next epochs, whose orders differ."""
        return len(self.rows) // self.size

    def __call__(self, number: int) -> Batch:
        epoch, place = divmod(number, self.batches_per_epoch)
        part = self.size // distributed.world_size()
        first = place * self.size + distributed.rank() * part
        rows = self._rows(epoch, first, first + part)
        samples = number * self.size + distributed.rank() * part + numpy.arange(part, dtype=numpy.int64)
        pixels = self.photos.rows(rows).to(self.device, non_blocking=True)
        labels = None if self.labels is None else torch.from_numpy(self.labels[rows])
        return Batch(
            images=tuple(self._views(pixels, samples)),
            labels=labels,
            index=torch.from_numpy(rows),
            step=number,
            seed=self.seed,
        )

    def _rows(self, epoch: int, first: int, last: int) -> NDArray[numpy.int64]:
        if isinstance(self.rows, numpy.ndarray):
            chosen = epoch_rows(len(self.rows), epoch, self.seed)[first:last]
            return numpy.asarray(self.rows[chosen])
        return self.rows.rows(epoch, first, last, self.seed)

    def _views(self, pixels: Tensor, samples: NDArray[numpy.int64]) -> list[Tensor]:
        views: list[Tensor] = []
        for spec in self.views:
            chosen = for_kind(augmentation(spec.pipeline, spec.size, spec.scale), self.kind)
            for _ in range(spec.count):
                draws = draws_of(self.seed, len(views), samples)
                view = augmented(pixels, chosen, (spec.size, spec.size), draws)
                views.append(normalised(view, self.transform))
        return views
