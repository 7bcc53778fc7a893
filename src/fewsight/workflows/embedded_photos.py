"""A folder of `fewsight embed` in place of photos: their names, labels and features, read shard by shard.

The photos themselves need not be there any more. Where they are, they must be those that the features were made from,
and their layout gives the labels; where they are gone, the folders in the names of the index do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.backbones.encode import NAME_NOTE, EncodedBatch
from fewsight.backbones.features import Features
from fewsight.data.collection import Collection, Row
from fewsight.data.file_names import parse_display_name
from fewsight.data.fingerprint import fingerprint
from fewsight.data.label_csv import read_label_file
from fewsight.data.layouts import Reading, read_layout
from fewsight.data.loading import Outcome
from fewsight.data.named_photos import labels_in_names
from fewsight.data.reading import SPLITS, described, listing
from fewsight.errors import InvalidInput
from fewsight.workflows.feature_shards import PhotoRow, read_shard, shard_number, shard_paths
from fewsight.workflows.run_record import read_record

__all__ = ["EmbeddedPhotos", "FeatureMaker"]


@dataclass(frozen=True)
class FeatureMaker:
    """What made features: its name, input in pixels, number format, and `features_of` it (empty: not recorded)."""

    name: str
    image_size: tuple[int, int]
    precision: str
    identity: str

    def __str__(self) -> str:
        return f"{self.name} at {self.image_size[0]} x {self.image_size[1]} px"


class EmbeddedPhotos:
    """What `fewsight embed` wrote.

    Args:
        folder: its output folder.

    Raises:
        InvalidInput: it is of another verb, damaged, or shards are missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.record = folder, read_record(folder)
        self._paths = list(shard_paths(folder))
        self._check_shards()
        lengths = [len(read_shard(path)) for path in self._paths]
        self._starts = numpy.concatenate([[0], numpy.cumsum(lengths)]).astype(numpy.int64)
        count = self.record.data.get("count")
        if count is not None and int(count) != len(self):
            raise InvalidInput(
                f"{folder} holds {len(self)} of {count} photos: run `fewsight embed` with --resume."
            )
        self._open: tuple[int, list[PhotoRow], Tensor] | None = None

    def _check_shards(self) -> None:
        numbers = [shard_number(path) for path in self._paths]
        if self.record.verb != "embed" or numbers != list(range(len(numbers))):
            absent = sorted(set(range(len(numbers))) - set(numbers))
            what = f"shard {absent[0]} is missing" if absent else f"it is of `fewsight {self.record.verb}`"
            raise InvalidInput(f"{self.folder}: {what}; run `fewsight embed` with --resume.")

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def source(self) -> Path:
        """Where the photos were."""
        return Path(str(self.record.settings.get("photos", "")))

    @property
    def maker(self) -> FeatureMaker:
        """The backbone that made the features."""
        told = self.record.settings
        size = told.get("image_size") or (0, 0)
        formats = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
        return FeatureMaker(
            str(told.get("backbone", "unknown")),
            (int(size[0]), int(size[1])),
            formats.get(str(told.get("precision")), "auto"),
            self.record.data.get("features", ""),
        )

    @property
    def fingerprint(self) -> str:
        """Of the photos and of what made the features."""
        return f"{self.record.data.get('photos')}-{self.record.data.get('backbone')}"

    def names(self) -> Iterator[PhotoRow]:
        """Every photo in order; the features stay on the disk."""
        for path in self._paths:
            yield from read_shard(path)

    # --- as a reading of photos

    def pile(self) -> Reading:
        """All photos in order, with the labels that their layout gives, if any."""
        found = self._layout()
        return self._by_names() if found is None else found

    def labelled(
        self, *, class_level: Any = "top", skip_empty: bool = False, group_column: str | None = None
    ) -> Reading:
        """The photos with a label, by the layout of the photos or the folders in their names.

        Raises:
            InvalidInput: there is none, or the photos have changed since.
        """
        there = self._layout()
        if there is None:
            reading = self._by_names(class_level)
        elif there.collection.labelled().any():
            reading = read_layout(
                self.source, class_level=class_level, skip_empty=skip_empty, group_column=group_column
            )
        else:
            reading = there
        kept = reading.collection.labelled()
        if not kept.any():
            raise InvalidInput(
                f"the photos of {self.folder} lie in no class folders, so that they have no labels: give a CSV of "
                "labels with --labels."
            )
        return replace(reading, collection=reading.collection.select(kept))

    def labelled_by(self, file: Path) -> Reading:
        """The photos that a CSV of labels (or a corrected `predictions.csv`) names.

        Raises:
            InvalidInput: it names none of them.
        """
        told = read_label_file(file)
        names = _Names(self.names(), self.source)
        rows, absent = [], []
        for row in told.rows:
            name = names.find(row.image)
            if name is None:
                absent.append(f"{row.image} ({row.where})")
            elif row.labels:
                split = SPLITS.get(row.split.lower(), row.split) or None
                rows.append(Row(name, row.labels, None, row.group or None, split))
        if not rows:
            raise InvalidInput(
                f"{file} labels no photo of {self.folder}; the names in index.csv are such as "
                f"{next(iter(names.known), '(none)')}."
            )
        warnings = [f"{listing(absent)} of {file.name} not in {self.folder}, left out."] if absent else []
        collection = Collection.from_rows(self._root(), rows)
        words = described(collection, "csv", {})
        return Reading(collection, "csv", words, {}, {}, (*told.warnings, *warnings))

    def names_any_of(self, file: Path) -> bool:
        """Whether a CSV of labels names photos of this folder, half of them at least."""
        rows = read_label_file(file).rows
        names = _Names(self.names(), self.source)
        return bool(rows) and 2 * sum(names.find(row.image) is not None for row in rows) >= len(rows)

    def _layout(self) -> Reading | None:
        """The photos as they lie on the disk; None where they are gone.

        Raises:
            InvalidInput: they have changed since.
        """
        if not os.path.lexists(self.source):
            return None
        there = read_layout(self.source, labels="optional")
        if fingerprint(there.collection) != self.record.data.get("photos"):
            raise InvalidInput(
                f"the photos in {self.source} have changed since {self.folder} was made: run `fewsight embed` again."
            )
        return there

    def _root(self) -> str:
        folder = self.source if self.source.suffix.lower() not in (".csv", ".tsv") else self.source.parent
        return os.path.normpath(folder.absolute())

    def _by_names(self, class_level: Any = "top") -> Reading:
        names = [_as_bytes(photo) for photo in self.names()]
        collection = Collection.from_rows(self._root(), labels_in_names(names, class_level))
        layout = "class folders" if collection.classes else "flat"
        words = described(collection, cast("Any", layout), {})
        return Reading(
            collection, cast("Any", layout), f"{words} (by the names in {self.folder}/index.csv)", {}, {}
        )

    # --- features

    def batches(self, places: range) -> Iterator[EncodedBatch]:
        """Consecutive photos with what became of them; indices count from the first of `places`."""
        place = places.start
        while place < places.stop:
            number = int(numpy.searchsorted(self._starts, place, side="right")) - 1
            end = min(places.stop, int(self._starts[number + 1]))
            first = int(self._starts[number])
            yield self._stretch(number, range(place - first, end - first), place - places.start)
            place = end

    def _stretch(self, number: int, inside: range, first: int) -> EncodedBatch:
        photos, features = self._shard(number)
        outcomes, rows = [], []
        for index, photo in enumerate(photos[inside.start : inside.stop], start=first):
            outcomes.append(Outcome(index, cast("Any", photo.status), photo.note))
            if photo.row is not None:
                rows.append(photo.row)
        indices = torch.tensor([outcome.index for outcome in outcomes if outcome.decoded], dtype=torch.int64)
        vectors = features[torch.tensor(rows, dtype=torch.long)]
        return EncodedBatch(indices, Features(cls=vectors), tuple(outcomes), 0)

    def _shard(self, number: int) -> tuple[list[PhotoRow], Tensor]:
        """The last shard asked for stays open: it is read in order."""
        if self._open is None or self._open[0] != number:
            from safetensors.torch import load_file

            path = self._paths[number]
            self._open = number, read_shard(path), load_file(path)["features"]
        return self._open[1], self._open[2]

    def at(self, places: Iterable[int]) -> dict[int, Features]:
        """Features of single photos by their place; those that were not decoded are left out."""
        found = {}
        for place in sorted(set(places)):
            (batch,) = self.batches(range(place, place + 1))
            if len(batch.indices):
                found[place] = batch.features
        return found

    def matched(self, collection: Collection) -> tuple[NDArray[numpy.int64], Tensor, list[tuple[str, str]]]:
        """Photos of a collection that have features.

        Returns:
            Their indices, ascending `[N]`; the features `[N, D]`; file and note of the photos that were not decoded.
        """
        wanted = {collection.file(index): index for index in range(len(collection))}
        found: list[int] = []
        parts: list[Tensor] = []
        lost: list[tuple[str, str]] = []
        for number, path in enumerate(self._paths):
            here = [photo for photo in read_shard(path) if photo.file in wanted]
            lost += [(photo.file, photo.note) for photo in here if photo.row is None]
            rows = [photo.row for photo in here if photo.row is not None]
            if rows:
                found += [wanted[photo.file] for photo in here if photo.row is not None]
                parts.append(self._shard(number)[1][rows])
        order = numpy.argsort(numpy.array(found, dtype=numpy.int64))
        vectors = torch.cat(parts) if parts else torch.empty(0, 0)
        return numpy.array(found, dtype=numpy.int64)[order], vectors[torch.from_numpy(order)], lost


class _Names:
    """Photos of the index by the names that people write: as in the index, or below the folder of the photos."""

    def __init__(self, photos: Iterable[PhotoRow], source: Path) -> None:
        self.known = {photo.file: _as_bytes(photo) for photo in photos}
        self._prefixes: Sequence[str] = (f"{source.name}/", f"{source}/", f"{source.absolute()}/")

    def find(self, written: str) -> bytes | None:
        name = written.removeprefix("./")
        options = [name, name.replace("\\", "/")]
        options += [option.removeprefix(prefix) for option in tuple(options) for prefix in self._prefixes]
        return next((self.known[option] for option in options if option in self.known), None)


def _as_bytes(photo: PhotoRow) -> bytes:
    return parse_display_name(photo.file) if NAME_NOTE in photo.note else os.fsencode(photo.file)
