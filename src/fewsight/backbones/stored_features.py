"""Frozen features of a collection for training: every photo encoded once, kept on disk in half precision.

Values are rounded to float16 whether they come from the disk or fresh from the backbone, so what a step sees does not
depend on what the cache still holds: a run that is killed and resumed sees the same numbers. Photos beyond the disk
budget are encoded again when they are drawn.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy
import torch
from numpy.typing import NDArray

from fewsight.backbones.encode import Encoder
from fewsight.backbones.feature_cache import FeatureCache
from fewsight.backbones.features import Features, concatenate
from fewsight.data.collection import Collection
from fewsight.data.loading import Outcome, photos
from fewsight.errors import InvalidInput
from fewsight.progress import Progress

__all__ = ["StoredFeatures", "store_features"]

BATCH = 8  # photos that are encoded together


@dataclass(frozen=True)
class StoredFeatures:
    """Features by row.

    Attributes:
        collection: the photos that can be read.
        encoder: what makes features, and their request.
        cache: where they are kept; its limit is the disk budget.
        digests: of each photo's content.
        sizes: height and width of each upright photo in pixels.
        left_out: file and reason of each photo that cannot be read.
        memory: bytes of features that are held in memory, too; those drawn last stay.
    """

    collection: Collection
    encoder: Encoder
    cache: FeatureCache
    digests: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    left_out: tuple[tuple[str, str], ...] = ()
    memory: int = 2**30
    _held: OrderedDict[int, Features] = field(default_factory=OrderedDict, repr=False, compare=False)
    _busy: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.digests)

    def rows(self, index: Sequence[int] | NDArray[numpy.int64]) -> Features:
        """Features of some photos, float32 with the values of float16, in the order of `index`."""
        wanted = [int(row) for row in index]
        distinct = sorted(set(wanted))
        with self._busy:  # several threads make batches; one at a time goes to the cache and the network
            kept = {row: self._held.get(row) or self._kept(row) for row in distinct}
            absent = [row for row, found in kept.items() if found is None]
            for start in range(0, len(absent), BATCH):
                kept |= self._encoded(absent[start : start + BATCH])
            self._hold({row: found for row, found in kept.items() if found is not None})
        place = {row: number for number, row in enumerate(distinct)}
        joined = concatenate([found for found in kept.values() if found is not None])
        return joined.rows([place[row] for row in wanted]).to(torch.float32)

    def select(self, index: NDArray[numpy.int64]) -> StoredFeatures:
        """Some of the photos."""
        rows = index.tolist()
        return StoredFeatures(
            self.collection.select(index),
            self.encoder,
            self.cache,
            tuple(self.digests[row] for row in rows),
            tuple(self.sizes[row] for row in rows),
        )

    def _hold(self, rows: dict[int, Features]) -> None:
        for row, found in rows.items():
            self._held[row] = found
            self._held.move_to_end(row)
        size = sum(_bytes(found) for found in rows.values()) // len(rows)
        while len(self._held) * size > self.memory:
            self._held.popitem(last=False)

    def _kept(self, row: int) -> Features | None:
        entry = self.cache.get(_key(self.encoder, self.digests[row]))
        return None if entry is None else entry[0]

    def _encoded(self, rows: list[int]) -> dict[int, Features]:
        sources = [self.collection.path(row) for row in rows]
        (batch,) = photos(sources, self.encoder.backbone.transform, len(sources), 0)
        if len(batch.images) != len(rows):
            raise InvalidInput(f"{batch.outcomes[0].note}: photos changed while the run was under way.")
        fresh = self.encoder(batch.images).to(torch.float16)
        found = {row: fresh.rows(slice(n, n + 1)) for n, row in enumerate(rows)}
        self.cache.put({_key(self.encoder, self.digests[row]): (one, {}) for row, one in found.items()})
        return found


def _bytes(features: Features) -> int:
    sizes: list[int] = []
    features.map(lambda tensor: sizes.append(tensor.nbytes) or tensor)  # type: ignore[func-returns-value]
    return sum(sizes)


def store_features(
    encoder: Encoder, collection: Collection, cache: FeatureCache, *, workers: int | None = None
) -> StoredFeatures:
    """Encode every photo that the cache does not hold yet; unreadable photos and copies of others are left out.

    Raises:
        InvalidInput: no photo can be read.
    """
    kept: list[int] = []
    digests, sizes, left_out, seen = [], [], [], set()
    with Progress("encoding", len(collection)) as bar:
        for batch in photos(
            collection,
            encoder.backbone.transform,
            BATCH,
            workers,
            wanted=lambda digest: not cache.holds(_key(encoder, digest)),
        ):
            fresh = encoder(batch.images).to(torch.float16) if len(batch.images) else None
            decoded = iter(range(len(batch.images)))
            entries = {}
            for outcome in batch.outcomes:
                size = outcome.original_size
                if outcome.decoded and fresh is not None:
                    row = next(decoded)
                    words = {"size": f"{size[0]} {size[1]}" if size else ""}
                    entries[_key(encoder, str(outcome.digest))] = (fresh.rows(slice(row, row + 1)), words)
                elif outcome.status == "skipped":
                    size = _size_kept(cache, encoder, outcome)
                if size is None or outcome.digest in seen:
                    note = outcome.note if size is None else "a copy of another photo"
                    left_out.append((collection.file(outcome.index), note))
                    continue
                seen.add(outcome.digest)
                kept.append(outcome.index)
                digests.append(str(outcome.digest))
                sizes.append(size)
            cache.put(entries)
            bar.advance(len(batch.outcomes))
    if not kept:
        reason = f" (the first, {left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise InvalidInput(f"none of {len(collection)} photos can be read{reason}.")
    return StoredFeatures(
        collection.select(numpy.array(kept)), encoder, cache, tuple(digests), tuple(sizes), tuple(left_out)
    )


def _size_kept(cache: FeatureCache, encoder: Encoder, outcome: Outcome) -> tuple[int, int] | None:
    entry = cache.get(_key(encoder, str(outcome.digest)))
    words = "" if entry is None else entry[1].get("size", "")
    height, _, width = words.partition(" ")
    return (int(height), int(width)) if width else None


def _key(encoder: Encoder, digest: str) -> str:
    return f"{encoder.key(digest)}-half"
