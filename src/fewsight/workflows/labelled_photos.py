"""SUPPORT as people give it: class folders, a CSV, a corrected `predictions.csv`, or a model folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.features import Features
from fewsight.classifier import FewShotClassifier
from fewsight.data.collection import Collection
from fewsight.data.decode import decode
from fewsight.data.fingerprint import fingerprint
from fewsight.data.layouts import Reading, read_layout
from fewsight.errors import InvalidInput, UnreadableImage
from fewsight.progress import say
from fewsight.workflows.embedded_photos import EmbeddedPhotos

__all__ = [
    "LabelledPhotos",
    "embedded_labelled",
    "fit",
    "group_column",
    "groups_of",
    "is_model_folder",
    "read_labelled",
]


@dataclass(frozen=True)
class LabelledPhotos:
    """Labelled photos that can be decoded.

    Attributes:
        collection: these alone.
        unreadable: file and note of each that cannot.
        reading: how the folder was read.
        embedded: the folder of `fewsight embed` that they came from, if they did.
        features: of these photos `[S, D]`, where they were embedded.
    """

    collection: Collection
    unreadable: tuple[tuple[str, str], ...]
    reading: Reading
    embedded: EmbeddedPhotos | None = None
    features: Tensor | None = None

    @property
    def fingerprint(self) -> str:
        """Of names, sizes and labels."""
        if self.embedded is None:
            return fingerprint(self.collection)
        labels = blake2b(
            self.collection.labels.tobytes() + self.collection.files.buffer.tobytes(), digest_size=8
        )
        return f"{self.embedded.fingerprint}-{labels.hexdigest()}"


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
    group_by: str | None = None,
) -> LabelledPhotos:
    """Read SUPPORT and leave out what cannot be decoded, saying so.

    Raises:
        InvalidInput: nothing fits, or a class has no photo that can be decoded.
        UnreadableImage: with `strict`, the first photo that cannot be decoded.
    """
    reading = read_layout(
        source,
        class_level=class_level,
        skip_empty=skip_empty,
        root=root,
        group_column=group_column(group_by),
    )
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
    kept = _with_classes(collection.select(readable), unreadable, skip_empty)
    return LabelledPhotos(kept, tuple(unreadable), reading)


def embedded_labelled(
    embedded: EmbeddedPhotos,
    reading: Reading,
    *,
    skip_empty: bool = False,
    strict: bool = False,
) -> LabelledPhotos:
    """Labelled photos with the features of a folder of `fewsight embed`.

    Raises:
        InvalidInput: a class has no photo with features.
        UnreadableImage: with `strict`, the first photo that could not be decoded.
    """
    rows, vectors, lost = embedded.matched(reading.collection)
    if strict and lost:
        raise UnreadableImage(f"{lost[0][0]}: {lost[0][1]} (--strict stops here)")
    kept = _with_classes(reading.collection.select(rows), lost, skip_empty)
    return LabelledPhotos(kept, tuple(lost), reading, embedded, vectors)


def _with_classes(kept: Collection, lost: Sequence[tuple[str, str]], skip_empty: bool) -> Collection:
    """The photos that are left, with the classes that have some."""
    gone = [name for name, count in zip(kept.classes, kept.counts().tolist(), strict=True) if not count]
    if gone and not skip_empty:
        why = f" ({lost[0][0]}: {lost[0][1]})" if lost else ""
        raise InvalidInput(
            f"no photo of class {gone[0]!r} can be read{why}. Replace the photos, or give --skip-empty to go on "
            "without the class."
        )
    return kept.without_empty_classes()


def group_column(group_by: str | None) -> str | None:
    """What `read_layout` is to take groups from: None where they come from elsewhere or nowhere."""
    return None if group_by in (None, "folder", "burst") else group_by


def groups_of(collection: Collection, group_by: str | None) -> list[str] | None:
    """A group name for each photo, or None.

    Args:
        group_by: None (each photo stands alone), `folder` (the folder that holds it), `burst` (photos of a camera taken
            within seconds of each other, by EXIF time), or anything else for the groups that the collection was read
            with (`group_column`).
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
    groups = groups_of(collection, group_by)
    if photos.features is None:
        classifier.fit(collection, y, groups=groups)
    else:
        # with a backbone the model takes photos, too; without one it takes features alone
        known = isinstance(classifier.backbone, Backbone)
        X = Features(cls=photos.features) if known else photos.features.numpy()
        names = [collection.file(index) for index in range(len(collection))]
        classifier.fit(X, y, groups=groups, files=names)
    for note in classifier.trust_.notes:
        say(note)
    return classifier
