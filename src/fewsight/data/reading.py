"""`Reading`: what a folder or file of photos was found to hold, and the words for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fewsight.data.collection import Collection

__all__ = [
    "SPLITS",
    "Labels",
    "Layout",
    "Reading",
    "counted",
    "described",
    "listing",
    "nothing_there",
    "photos_of",
]

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "all": "all"}
SHOWN = 10  # names in a warning

Layout = Literal["class folders", "csv", "annotations", "flat", "folders", "one photo"]
Labels = Literal["required", "optional", "none"]


@dataclass(frozen=True)
class Reading:
    """What was found.

    Attributes:
        collection: the photos.
        layout: which reading was taken.
        description: the same in words, with counts.
        suffixes: photos by suffix in lower case (`.jpeg` counts as `.jpg`).
        ignored: what was passed over, by kind.
        warnings: in words.
        absent: images that a CSV names and that do not exist.
        unlabelled: photos without a label where labels were required; they are not in the collection.
    """

    collection: Collection
    layout: Layout
    description: str
    suffixes: dict[str, int]
    ignored: dict[str, int]
    warnings: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()


def described(collection: Collection, layout: Layout, ignored: dict[str, int]) -> str:
    """One line for people."""
    parts = [photos_of(len(collection))]
    if collection.classes:
        count = len(collection.classes)
        parts[0] += " of 1 class" if count == 1 else f" of {count:,} classes"
    if collection.split_names:
        sizes = Counter(collection.splits.tolist())
        parts.append(
            "splits " + ", ".join(f"{name} {sizes[k]:,}" for k, name in enumerate(collection.split_names))
        )
    if collection.group_names:
        parts.append(f"{len(collection.group_names):,} groups")
    if collection.masks is not None:
        parts.append(f"{sum(length > 0 for length in collection.masks.lengths().tolist()):,} masks")
    if ignored:
        parts.append(f"passed over: {counted(ignored)}")
    return f"{layout}: {'; '.join(parts)}"


def photos_of(count: int) -> str:
    """A number of photos.

    >>> photos_of(1), photos_of(1200)
    ('1 photo', '1,200 photos')
    """
    return "1 photo" if count == 1 else f"{count:,} photos"


def nothing_there(reading: Reading, source: object) -> tuple[str, ...]:
    """A warning if there is no photo at all; what was passed over may say why."""
    if len(reading.collection):
        return ()
    passed = f" (passed over: {counted(reading.ignored)})" if reading.ignored else ""
    return (f"{source} holds no photo{passed}.",)


def counted(counts: Mapping[str, int]) -> str:
    """Names with their counts, in the order of names."""
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))


def listing(names: Sequence[str]) -> str:
    """How many, and the first names."""
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"{photos_of(len(names))} ({shown})"
