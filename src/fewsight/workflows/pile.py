"""The photos to be judged: files that are decoded and encoded, or what `fewsight embed` made of them before."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewsight.backbones.encode import EncodedBatch, Encoder, encode_photos
from fewsight.backbones.feature_cache import FeatureCache
from fewsight.backbones.features import Features, concatenate
from fewsight.data.collection import Collection
from fewsight.data.fingerprint import fingerprint
from fewsight.data.layouts import Reading, read_layout
from fewsight.workflows.embedded_photos import EmbeddedPhotos
from fewsight.workflows.feature_shards import is_embedding

__all__ = ["Pile", "read_pile"]


@dataclass(frozen=True)
class Pile:
    """QUERIES as a person gave them.

    Attributes:
        reading: names, and labels where the layout gives any.
        embedded: their features, where QUERIES is a folder of `fewsight embed`.
    """

    reading: Reading
    embedded: EmbeddedPhotos | None = None

    @property
    def collection(self) -> Collection:
        """The photos in order."""
        return self.reading.collection

    @property
    def present(self) -> bool:
        """Whether the photos themselves can be looked at."""
        return self.embedded is None or os.path.lexists(self.embedded.source)

    def fingerprint(self) -> str:
        """Of what is judged."""
        return fingerprint(self.collection) if self.embedded is None else self.embedded.fingerprint

    def encoded(
        self,
        places: range,
        encoder: Encoder | None,
        *,
        cache: FeatureCache,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> Iterator[EncodedBatch]:
        """Consecutive photos with their features; indices count from the first of `places`."""
        if self.embedded is not None:
            return self.embedded.batches(places)
        assert encoder is not None
        part = self.collection.select(places)
        return encode_photos(encoder, part, cache=cache, batch_size=batch_size, workers=workers)

    def features_at(self, places: Sequence[int], encoder: Encoder | None) -> dict[int, Features]:
        """Features of single photos by their place; those that were not decoded are left out."""
        if self.embedded is not None:
            return self.embedded.at(places)
        assert encoder is not None
        found = {}
        with FeatureCache() as cache:
            for batch in encode_photos(encoder, self.collection.select(places), cache=cache):
                for row, index in enumerate(batch.indices.tolist()):
                    found[places[index]] = concatenate([batch.features.rows([row])])
        return found


def read_pile(queries: Path) -> Pile:
    """Read QUERIES: a folder, a CSV, annotations, one photo, or a folder of `fewsight embed`.

    Raises:
        InvalidInput: it does not exist or fits nothing, or its features are incomplete or of other photos.
    """
    if is_embedding(queries):
        embedded = EmbeddedPhotos(queries)
        return Pile(embedded.pile(), embedded)
    return Pile(read_layout(queries, labels="optional"))
