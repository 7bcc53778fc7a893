"""What `fewsight embed` wrote as a table of labelled features: no photo is decoded and no network runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import torch

from fewsight.backbones.features import Features
from fewsight.data.collection import Collection
from fewsight.data.fingerprint import fingerprint
from fewsight.data.layouts import read_layout
from fewsight.errors import InvalidInput
from fewsight.workflows.encoded_data import EncodedData
from fewsight.workflows.feature_shards import read_shard, shard_paths
from fewsight.workflows.run_record import read_record

__all__ = ["backbone_of", "embedded_data"]


def backbone_of(folder: Path) -> str:
    """The backbone that made the features."""
    return str(read_record(folder).settings.get("backbone", "unknown"))


def embedded_data(
    folder: Path, *, split: str | None = None, class_level: Any = "top", skip_empty: bool = False
) -> EncodedData:
    """Features of a folder of `fewsight embed`, with the labels of the photos that it was made from.

    Photos that could not be decoded are left out. Copies of one photo are not looked for.

    Args:
        split: only photos of this split; None takes all.

    Raises:
        InvalidInput: the photos are gone or have changed since, a shard is missing or damaged, or none is labelled.
    """
    record = read_record(folder)
    source = Path(str(record.settings.get("photos", "")))
    if fingerprint(read_layout(source, labels="optional").collection) != record.data.get("photos"):
        raise InvalidInput(
            f"the photos in {source} have changed since {folder} was made: run `fewsight embed` again."
        )
    reading = read_layout(source, class_level=class_level, skip_empty=skip_empty)
    collection = reading.collection
    if split is not None:
        collection = collection.select(collection.in_split(split)).without_empty_classes()
    rows, vectors = _matched(folder, collection)
    if not len(rows):
        raise InvalidInput(f"{folder} holds no features of a labelled photo of {source}.")
    remarks = list(reading.warnings)
    if len(rows) < len(collection):
        remarks.append(f"{len(collection) - len(rows)} photos without features left out, see index.csv.")
    return EncodedData(collection.select(rows), Features(cls=vectors), tuple(remarks))


def _matched(folder: Path, collection: Collection) -> tuple[numpy.ndarray, torch.Tensor]:
    """Photos of the collection that have features, ascending, and these `[N, D]`."""
    from safetensors.torch import load_file

    wanted = {collection.file(index): index for index in range(len(collection))}
    found, parts = [], [torch.empty(0, 0)]
    for path in shard_paths(folder):
        here = [photo for photo in read_shard(path) if photo.row is not None and photo.file in wanted]
        if here:
            found += [wanted[photo.file] for photo in here]
            parts.append(load_file(path)["features"][[photo.row for photo in here]])
    order = numpy.argsort(numpy.array(found, dtype=numpy.int64))
    vectors = torch.cat(parts[1:]) if found else parts[0]
    return numpy.array(found, dtype=numpy.int64)[order], vectors[torch.from_numpy(order)]
