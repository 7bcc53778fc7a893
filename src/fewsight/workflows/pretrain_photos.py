"""What `pretrain` trains on: photos of a folder, decoded once into a store, or tar shards, read where they lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy
from numpy.typing import NDArray

from fewsight import distributed
from fewsight.backbones.backbone import Backbone
from fewsight.data.collection import Collection
from fewsight.data.fingerprint import fingerprint
from fewsight.data.pixels import Pixels
from fewsight.data.reading import photos_of
from fewsight.data.resident import ResidentPhotos, fits, free_memory
from fewsight.data.shards.index import ShardIndex, build_index, open_index
from fewsight.data.shards.order import ShardOrder
from fewsight.data.shards.photos import ShardPhotos
from fewsight.data.store import PixelStore, build_store, open_store
from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput, UnreadableImage
from fewsight.progress import say
from fewsight.training.view_source import Order, Photos
from fewsight.workflows.pretrain_judge import (
    Judged,
    held_out_of_classes,
    held_out_rows,
    judged_photos,
    judged_store,
)
from fewsight.workflows.pretrain_recipe import PretrainRecipe
from fewsight.workflows.training_run import stored_once

__all__ = ["FolderPhotos", "Material", "PhotoSet", "ShardedPhotos"]


@dataclass(frozen=True)
class Material:
    """Photos as the training takes them.

    Attributes:
        photos: where the pixels come from.
        rows: which take part.
        held_out: rows that wait for the verdict.
    """

    photos: Photos
    rows: NDArray[numpy.int64] | Order
    held_out: NDArray[numpy.int64]


class PhotoSet(Protocol):
    """A set of photos, however it lies on the disk."""

    @property
    def fingerprint(self) -> str:
        """Another set has another one."""
        ...

    def material(self, stored: Transform, recipe: PretrainRecipe, device: str, seed: int) -> Material:
        """Photos of the size of `stored`, those left to the verdict apart."""
        ...

    def judged(self, held_out: NDArray[numpy.int64], backbone: Backbone) -> Judged | None:
        """Held-out photos as `backbone` takes them; None where there are none."""
        ...

    def remarks(self) -> Iterator[str]:
        """What a person should know of the photos after the run."""
        ...


@dataclass
class FolderPhotos:
    """Photos that are files.

    Attributes:
        folder: of the run.
        store: folder of the decoded photos; None = the run's own.
    """

    collection: Collection
    groups: list[str] | None
    folder: Path
    strict: bool = False
    workers: int | None = None
    store: Path | None = None

    @property
    def fingerprint(self) -> str:
        """Over names, sizes and labels."""
        return fingerprint(self.collection)

    def material(self, stored: Transform, recipe: PretrainRecipe, device: str, seed: int) -> Material:
        """Decoded into the store; on a GPU with room for them, the photos live there."""
        store = stored_once(
            self.collection, stored, self.store or self.folder / "store", workers=self.workers
        )
        usable = self._usable(store)
        held_out = held_out_rows(self.collection, usable, recipe.held_out, self.groups, seed)
        rows = numpy.flatnonzero(usable & ~numpy.isin(numpy.arange(len(usable)), held_out))
        return Material(_near(store, device), rows, held_out)

    def judged(self, held_out: NDArray[numpy.int64], backbone: Backbone) -> Judged | None:
        """From a store of their own, at the size that the backbone takes."""
        return judged_photos(
            self.collection, held_out, self.groups, backbone, self.folder / "judged", workers=self.workers
        )

    def remarks(self) -> Iterator[str]:
        """Nothing that was not said before the training."""
        return iter(())

    def _usable(self, store: PixelStore) -> NDArray[numpy.bool_]:
        usable = numpy.ones(len(self.collection), bool)
        unreadable = sorted(store.unreadable)
        usable[unreadable] = False
        if unreadable:
            first = self.collection.file(unreadable[0])
            if self.strict:
                raise UnreadableImage(
                    f"{first} cannot be read (--strict stops here); `fewsight doctor` says why."
                )
            say(f"{len(unreadable)} photos cannot be read and are left out, the first is {first}.")
        return usable


def _near(store: PixelStore, device: str) -> Photos:
    """The photos on the device where they fit there, else where they are."""
    size = store.pixels.nbytes
    if not fits(size, free_memory(device)):
        return store
    say(f"The photos live on {device} ({size / 2**30:.1f} GiB).")
    return ResidentPhotos(store, device)


@dataclass
class ShardedPhotos:
    """Photos in tar shards.

    Attributes:
        index: of the shards.
        folder: of the run.
    """

    index: ShardIndex
    folder: Path
    strict: bool = False
    workers: int | None = None
    photos: ShardPhotos | None = None

    @classmethod
    def of(cls, files: Sequence[Path], folder: Path, *, strict: bool, workers: int | None) -> ShardedPhotos:
        """Index the shards in `folder/shards`, by the first process for all.

        Raises:
            InvalidInput: with `strict`, a shard is damaged.
        """
        if distributed.is_main():
            build_index(files, folder / "shards")
        distributed.barrier()
        index = open_index(folder / "shards")
        if strict and index.damage:
            raise InvalidInput(f"{index.damage[0]} (--strict stops here).")
        for sentence in _words(index):
            say(sentence)
        return cls(index, folder, strict, workers)

    @property
    def fingerprint(self) -> str:
        """Over names of the shards and what lies where in them."""
        return self.index.fingerprint

    def material(self, stored: Transform, recipe: PretrainRecipe, device: str, seed: int) -> Material:
        """Read from the shards batch by batch."""
        labels = self.index.rows["label"]
        held_out = held_out_of_classes(labels, recipe.held_out, seed)
        rank = distributed.rank()
        self.photos = ShardPhotos(
            self.index,
            stored,
            workers=self.workers,
            report=self.folder / ("unreadable.csv" if rank == 0 else f"unreadable-{rank}.csv"),
            strict=self.strict,
            left_out=held_out,
        )
        batch = max(1, min(recipe.batch_size, len(self.index) - len(held_out)))
        return Material(self.photos, ShardOrder(self.index.starts, batch, held_out), held_out)

    def judged(self, held_out: NDArray[numpy.int64], backbone: Backbone) -> Judged | None:
        """Held-out photos alone are decoded into a small store."""
        if not len(held_out):
            return None
        photos = ShardPhotos(self.index, backbone.transform, workers=self.workers)

        def read(first: int, last: int) -> Iterator[Pixels | None]:
            for row in held_out[first:last].tolist():
                try:
                    yield photos.pixels(row)
                except UnreadableImage:
                    yield None

        place = self.folder / "judged"
        if distributed.is_main():
            build_store(place, len(held_out), backbone.transform.size, self.fingerprint, read)
        distributed.barrier()
        return judged_store(open_store(place), self.index.rows["label"][held_out], None, backbone)

    def remarks(self) -> Iterator[str]:
        """Damage and photos that could not be read."""
        yield from self.index.damage[:1]
        count = 0 if self.photos is None else self.photos.unreadable
        if count:
            yield (
                f"{photos_of(count)} in the shards could not be read; others stood in for them, and "
                f"{self.folder / 'unreadable.csv'} names them."
            )


def _words(index: ShardIndex) -> Iterator[str]:
    """What the shards hold."""
    labels = f" of {len(index.classes):,} classes" if index.classes else ""
    further = (
        f"; {index.passed:,} further pictures of the same samples are passed over" if index.passed else ""
    )
    yield f"{len(index.files):,} tar shards: {photos_of(len(index))}{labels}{further}"
    if index.damage:
        more = f" So are {len(index.damage) - 1:,} others." if len(index.damage) > 1 else ""
        yield f"{index.damage[0]}; what is whole takes part.{more}"
