"""SUPPORT as people give it: class folders, a CSV, a corrected `predictions.csv`, or a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from fewsight.classifier import FewShotClassifier
from fewsight.data.collection import Collection
from fewsight.data.decode import decode
from fewsight.data.fingerprint import fingerprint
from fewsight.data.layouts import Reading, read_layout
from fewsight.errors import InvalidInput, UnreadableImage
from fewsight.progress import say

__all__ = ["LabelledPhotos", "fit", "groups_of", "is_model_folder", "read_labelled"]


@dataclass(frozen=True)
class LabelledPhotos:
    """Labelled photos that can be decoded.

    Attributes:
        collection: these alone.
        unreadable: file and note of each that cannot.
        reading: how the folder was read.
    """

    collection: Collection
    unreadable: tuple[tuple[str, str], ...]
    reading: Reading

    @property
    def fingerprint(self) -> str:
        """Of names, sizes and labels."""
        return fingerprint(self.collection)


def is_model_folder(path: Path) -> bool:
    """Whether a folder holds a model rather than photos."""
    return (path / "model.json").is_file()


def read_labelled(
    source: Path,
    *,
    root: list[Path],
    class_level: Any = "top",
    skip_empty: bool = False,
    strict: bool = False,
) -> LabelledPhotos:
    """Read SUPPORT and leave out what cannot be decoded, saying so.

    Raises:
        InvalidInput: nothing fits, or a class has no photo that can be decoded.
        UnreadableImage: with `strict`, the first photo that cannot be decoded.
    """
    reading = read_layout(source, class_level=class_level, skip_empty=skip_empty, root=root)
    collection = reading.collection
    unreadable, readable = [], numpy.ones(len(collection), bool)
    for index in range(len(collection)):
        try:
            decode(collection.path(index), needed=(64, 64), root=collection.root)
        except UnreadableImage as error:
            if strict:
                raise UnreadableImage(f"{collection.file(index)}: {error}", status=error.status) from error
            readable[index] = False
            unreadable.append((collection.file(index), str(error)))
    kept = collection.select(readable)
    gone = [name for name, count in zip(kept.classes, kept.counts().tolist(), strict=True) if not count]
    if gone and not skip_empty:
        raise InvalidInput(
            f"no photo of class {gone[0]!r} can be read ({unreadable[0][0]}: {unreadable[0][1]}). Replace the photos, "
            "or give --skip-empty to go on without the class."
        )
    return LabelledPhotos(kept.without_empty_classes(), tuple(unreadable), reading)


def groups_of(collection: Collection, group_by: str | None) -> list[str] | None:
    """A group name for each photo, or None.

    Args:
        group_by: None (each photo stands alone), `folder` (the folder that holds it), `burst` (photos of a camera taken
            within seconds of each other, by EXIF time), or anything else for the groups of the layout (the column
            `group` of a CSV, or the folders below the class).
    """
    if group_by is None:
        return None
    if group_by == "folder":
        return [collection.file(index).rpartition("/")[0] for index in range(len(collection))]
    if group_by == "burst":
        from fewsight.data.bursts import burst_groups

        return burst_groups(collection)
    if not collection.group_names:
        raise InvalidInput(
            f"--group-by {group_by}: the data names no groups. Use folder, burst, or a CSV with a column 'group'."
        )
    names = [*collection.group_names, ""]
    return [
        names[code] if code >= 0 else collection.file(index)
        for index, code in enumerate(collection.groups.tolist())
    ]


def fit(classifier: FewShotClassifier, photos: LabelledPhotos, group_by: str | None) -> FewShotClassifier:
    """Fit a classifier on labelled photos; photos with several labels make it a several-label one."""
    collection = photos.collection
    several = bool((numpy.diff(collection.label_offsets) > 1).any())
    labels = [
        [collection.classes[k] for k in collection.labels_of(index)] for index in range(len(collection))
    ]
    y: list[Any] = labels if several else [row[0] for row in labels]
    classifier.fit(collection, y, groups=groups_of(collection, group_by))
    for note in classifier.trust_.notes:
        say(note)
    return classifier
