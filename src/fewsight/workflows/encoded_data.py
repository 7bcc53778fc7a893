"""DATA as a table of features: every readable photo encoded once, what cannot be read named, copies left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.encode import Encoder, encode_photos
from fewsight.backbones.feature_cache import FeatureCache
from fewsight.backbones.features import Features, Request, concatenate
from fewsight.data.class_splits import photos_of_split
from fewsight.data.collection import Collection
from fewsight.data.fingerprint import fingerprint
from fewsight.data.layouts import read_layout
from fewsight.errors import InvalidInput
from fewsight.progress import Progress
from fewsight.workflows.labelled_photos import group_column

__all__ = ["EncodedData", "encode_collection", "encode_data", "read_judged", "vector_encoder", "vectors_of"]


@dataclass(frozen=True)
class EncodedData:
    """Photos with their features.

    Attributes:
        collection: the photos that could be read, each content once.
        features: of these, in order.
        remarks: what was left out, in words.
        origin: all photos that were to be read, for a fingerprint; None where these are all.
    """

    collection: Collection
    features: Features
    remarks: tuple[str, ...]
    origin: Collection | None = None

    @property
    def fingerprint(self) -> str:
        """Of the names, sizes and labels of all photos that were to be read."""
        return fingerprint(self.collection if self.origin is None else self.origin)


def encode_data(
    source: Path,
    encoder: Encoder,
    *,
    split: str | None = None,
    class_level: Any = "top",
    skip_empty: bool = False,
    group_by: str | None = None,
    workers: int | None = None,
) -> EncodedData:
    """Read and encode a labelled folder or CSV.

    Args:
        split: only photos of this split (see `photos_of_split`); None takes all.
        group_by: as in `labelled_photos.groups_of`, for the column to read.

    Raises:
        InvalidInput: nothing fits, or no photo can be read.
    """
    collection, warnings = read_judged(
        source, split=split, class_level=class_level, skip_empty=skip_empty, group_by=group_by
    )
    encoded = encode_collection(collection, encoder, workers=workers)
    remarks = (*warnings, *encoded.remarks)
    return EncodedData(encoded.collection, encoded.features, remarks, collection)


def read_judged(
    source: Path, *, split: str | None, class_level: Any, skip_empty: bool, group_by: str | None
) -> tuple[Collection, tuple[str, ...]]:
    """The photos that are judged, and what is odd about the data; nothing is decoded. Arguments as in `encode_data`."""
    reading = read_layout(
        source, class_level=class_level, skip_empty=skip_empty, group_column=group_column(group_by)
    )
    collection = reading.collection
    return collection if split is None else photos_of_split(collection, split), reading.warnings


def encode_collection(collection: Collection, encoder: Encoder, *, workers: int | None = None) -> EncodedData:
    """Encode the photos of a collection; unreadable ones and further copies of a file are left out and counted."""
    parts, kept, seen = [], [], set()
    lost: Counter[str] = Counter()
    example = ""
    with FeatureCache() as cache, Progress("encoding", len(collection)) as bar:
        for batch in encode_photos(encoder, collection, cache=cache, workers=workers):
            fresh = []
            decoded = iter(range(len(batch.indices)))
            for outcome in batch.outcomes:
                if not outcome.decoded:
                    lost[outcome.status] += 1
                    example = example or f"{collection.file(outcome.index)}: {outcome.note}"
                    continue
                row = next(decoded)
                key = (outcome.digest, tuple(collection.labels_of(outcome.index).tolist()))
                if outcome.digest is not None and key in seen:
                    lost["copies"] += 1
                    continue
                seen.add(key)
                fresh.append(row)
                kept.append(outcome.index)
            if fresh:
                parts.append(batch.features.rows(fresh))
            bar.advance(len(batch.outcomes))
    if not parts:
        raise InvalidInput(
            f"none of {len(collection)} photos can be read ({example or 'there is no photo'})."
        )
    remarks = [f"{count} photos left out: {_words(what)}." for what, count in lost.items()]
    if example:
        remarks.append(f"The first: {example}.")
    return EncodedData(collection.select(numpy.array(kept)), concatenate(parts), tuple(remarks))


def _words(what: str) -> str:
    return "further copies of the same file" if what == "copies" else what


def vector_encoder(backbone: Backbone, *, precision: str, device: str, batch_size: int | None) -> Encoder:
    """An encoder that keeps one vector an image."""
    return Encoder(
        backbone,
        Request(),
        precision=precision,
        device=None if device == "auto" else device,
        vectors=True,
        batch_size=batch_size,
    )


def vectors_of(features: Features) -> torch.Tensor:
    """`[N, D]` of features that were encoded as vectors."""
    assert features.cls is not None
    return features.cls
