"""What `fewsight embed` wrote as a table of labelled features: no photo is decoded and no network runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewsight.backbones.features import Features
from fewsight.data.class_splits import photos_of_split
from fewsight.errors import InvalidInput
from fewsight.workflows.embedded_photos import EmbeddedPhotos
from fewsight.workflows.encoded_data import EncodedData
from fewsight.workflows.labelled_photos import group_column
from fewsight.workflows.run_record import read_record

__all__ = ["backbone_of", "embedded_data"]


def backbone_of(folder: Path) -> str:
    """The backbone that made the features."""
    return str(read_record(folder).settings.get("backbone", "unknown"))


def embedded_data(
    folder: Path,
    *,
    split: str | None = None,
    class_level: Any = "top",
    skip_empty: bool = False,
    group_by: str | None = None,
) -> EncodedData:
    """Features of a folder of `fewsight embed`, with the labels of the photos that it was made from.

    Photos that could not be decoded are left out. Where the photos are gone,
    the folders in their names are the classes.

    Args:
        split: only photos of this split (see `photos_of_split`); None takes all.
        group_by: as in `labelled_photos.groups_of`, for the column to read.

    Raises:
        InvalidInput: the photos have changed since, a shard is missing or damaged, or none is labelled.
    """
    embedded = EmbeddedPhotos(folder)
    reading = embedded.labelled(
        class_level=class_level, skip_empty=skip_empty, group_column=group_column(group_by)
    )
    collection = reading.collection
    if split is not None:
        collection = photos_of_split(collection, split)
    rows, vectors, _ = embedded.matched(collection)
    if not len(rows):
        raise InvalidInput(f"{folder} holds no features of a labelled photo of {embedded.source}.")
    remarks = list(reading.warnings)
    if len(rows) < len(collection):
        remarks.append(f"{len(collection) - len(rows)} photos without features left out, see index.csv.")
    return EncodedData(collection.select(rows), Features(cls=vectors), tuple(remarks), collection)
