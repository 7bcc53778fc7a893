"""Which photo is what: class folders, a CSV beside them, or a flat pile, and in words which reading was taken.

    DATA/cat/1.jpg                    class folders: the top folder is the class
    DATA/cat/station7/1.jpg           deeper folders are groups (with class_level="leaf": the deepest is the class)
    DATA/train/cat/1.jpg              top folders that are all named train, val, valid, test or all are splits
    DATA/index.csv                    wins over folders: columns image, labels, and if wanted mask, split, group
    DATA/1.jpg                        no labels: fine for photos to be judged

Masks stand beside the photos: `1_mask.png`, `masks/1.png` in the same folder, or `DATA/masks/cat/1.png`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fewsight.data.class_names import name_clashes
from fewsight.data.collection import Collection, Row
from fewsight.data.file_names import display_name
from fewsight.data.label_csv import choose_root, read_label_file, resolve
from fewsight.data.mask_files import MaskFinder, is_mask_folder
from fewsight.data.walk import Folder, canonical_suffix, list_folder, walk_folders
from fewsight.errors import InvalidInput

__all__ = ["Reading", "read_layout"]

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "all": "all"}
SHOWN = 10  # names in a warning

Layout = Literal["class folders", "csv", "flat", "folders", "one photo"]
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


def read_layout(
    source: str | Path,
    *,
    labels: Labels = "required",
    class_level: Literal["top", "leaf"] = "top",
    skip_empty: bool = False,
    root: str | Path | Sequence[str | Path] | None = None,
    follow_links: bool = False,
) -> Reading:
    """List the photos of a folder or CSV with their labels, masks, groups and splits; no photo is opened.

    Args:
        source: a folder, a CSV of labels (also a corrected `predictions.csv`), or one photo.
        labels: `required` for a support; `optional` also takes photos without one; `none` looks for none, and top
            folders are groups.
        class_level: `leaf` takes the deepest folder as the class, for nested classes.
        skip_empty: go on without class folders that hold no photo.
        root: for a CSV, the folder that its paths are relative to; of several the one that holds most of them; None
            takes the folder of the CSV.
        follow_links: also walk into linked folders.

    Raises:
        InvalidInput: nothing fits (with what was found and an example layout), a class folder is empty, or a CSV is
            wrong (with the line).
    """
    path = Path(source)
    if not os.path.lexists(path):
        raise InvalidInput(f"{path} does not exist; give a folder of photos or a CSV of labels.")
    if path.is_dir():
        walker = _Walker(path, follow_links)
        reading = _indexed(walker, labels) or _folders(walker, labels, class_level, skip_empty)
    elif path.suffix.lower() in (".csv", ".tsv"):
        roots = [root] if isinstance(root, (str, Path)) else list(root or [path.parent])
        reading = _csv(path, [Path(folder) for folder in roots], labels, None)
    else:
        reading = _one_photo(path, labels)
    clashes = name_clashes(reading.collection.classes)
    return replace(reading, warnings=(*reading.warnings, *clashes))


class _Walker:
    """One folder, and what is learnt while walking it."""

    def __init__(self, root: Path, follow_links: bool) -> None:
        self.root = os.path.abspath(root)
        self.follow_links = follow_links
        self.passed: Counter[str] = Counter()
        self.suffixes: Counter[str] = Counter()
        self.masks = MaskFinder(self.root)

    def top(self) -> Folder:
        return list_folder(self.root, b"", Counter(), follow_links=self.follow_links)

    def walk(self, start: bytes = b"") -> Iterator[Folder]:
        """Folders from `start`, without those of masks; masks that lie beside photos are not photos."""
        stream = walk_folders(self.root, self.passed, start=start, follow_links=self.follow_links, skip=self.masks.owns)
        for folder in stream:
            photos = self.masks.without_masks(folder)
            self.suffixes.update(canonical_suffix(name) for name in photos)
            yield replace(folder, photos=photos)

    def holds_photos(self, start: bytes) -> bool:
        stream = walk_folders(self.root, Counter(), start=start, follow_links=self.follow_links)
        return any(folder.photos for folder in stream)


def _folders(
    walker: _Walker, labels: Labels, class_level: Literal["top", "leaf"], skip_empty: bool
) -> Reading:
    """Class folders, or a pile."""
    raise AssertionError
