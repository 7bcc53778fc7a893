"""Which photo is what: class folders, a CSV beside them, or a flat pile, and in words which reading was taken.

    DATA/cat/1.jpg                    class folders: the top folder is the class
    DATA/cat/station7/1.jpg           deeper folders are groups (with class_level="leaf": the deepest is the class)
    DATA/train/cat/1.jpg              top folders that are all named train, val, valid, test or all are splits
    DATA/index.csv                    wins over folders: columns image, labels, and if wanted mask, split, group
    DATA/Annotations, JPEGImages      VOC; data.yaml with images and labels: YOLO; one COCO .json: its labels
    cifar-100-python, CUB_200_2011    and Flowers, Pets: the official files, with their splits
    DATA/1.jpg                        no labels: fine for photos to be judged

Masks stand beside the photos: `1_mask.png`, `masks/1.png` in the same folder, or `DATA/masks/cat/1.png`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fewsight.data.class_names import name_clashes
from fewsight.data.collection import Collection, Row
from fewsight.data.file_names import display_name
from fewsight.data.formats.annotations import (
    ANNOTATION_SUFFIXES,
    find_annotations,
    image_roots,
    read_annotation_file,
)
from fewsight.data.formats.archive import unpacked
from fewsight.data.formats.cifar import cifar_folder, is_cifar
from fewsight.data.label_csv import read_label_file
from fewsight.data.listed_photos import from_label_file
from fewsight.data.mask_files import is_mask_folder, masks_of, part_masks
from fewsight.data.reading import SHOWN, SPLITS, Labels, Layout, Reading, counted, described, listing
from fewsight.data.walk import Folder, canonical_suffix, list_folder, walk_folders
from fewsight.errors import InvalidInput

__all__ = ["Reading", "read_layout"]


def read_layout(
    source: str | Path,
    *,
    labels: Labels = "required",
    class_level: Literal["top", "leaf"] = "top",
    skip_empty: bool = False,
    root: str | Path | Sequence[str | Path] | None = None,
    follow_links: bool = False,
    group_column: str | None = None,
) -> Reading:
    """List the photos of a folder or CSV with their labels, masks, groups and splits; no photo is opened.

    Args:
        source: a folder, a zip of one, a CSV of labels (also a corrected `predictions.csv`), annotations of another
            tool (COCO, VOC, YOLO, Label Studio, MegaDetector, Parquet), or one photo.
        labels: `required` for a support; `optional` also takes photos without one; `none` looks for none, and top
            folders are groups.
        class_level: `leaf` takes the deepest folder as the class, for nested classes.
        skip_empty: go on without class folders that hold no photo.
        root: for a CSV, the folder that its paths are relative to; of several the one that holds most of them; None
            takes the folder of the CSV.
        follow_links: also walk into linked folders.
        group_column: the column of the CSV that names groups; None takes one with a usual name.

    Raises:
        InvalidInput: nothing fits (with what was found and an example layout), a class folder is empty, or a CSV is
            wrong (with the line).
    """
    path = Path(source)
    if not os.path.lexists(path):
        raise InvalidInput(f"{path} does not exist; give a folder of photos or a CSV of labels.")
    if path.suffix.lower() == ".zip" and path.is_file():
        path = _from_zip(path)
    if path.is_dir() and is_cifar(path):
        path = cifar_folder(path)
    if path.is_dir():
        _check_photos(path)
        walker = _Walker(path, follow_links)
        annotated = _from_index(walker, labels, group_column) or _from_annotations(path, labels, follow_links)
        reading = annotated or _from_folders(walker, labels, class_level, skip_empty)
    else:
        roots = () if root is None else (root,) if isinstance(root, (str, Path)) else tuple(root)
        reading = _from_file(path, tuple(Path(place) for place in roots), labels, group_column)
    if group_column is not None:
        _check_groups(path, reading, group_column)
    clashes = name_clashes(reading.collection.classes)
    return replace(reading, warnings=(*reading.warnings, *clashes))


def _check_groups(path: Path, reading: Reading, group_column: str) -> None:
    """Whether there are groups of this name: a column of the CSV, or `group` for what other layouts call so."""
    if reading.layout != "csv" and (group_column != "group" or not reading.collection.group_names):
        raise InvalidInput(
            f"{path} has no CSV with a column {group_column!r} to group by; group by folder or burst, or give an "
            "index.csv with that column."
        )


def _check_photos(folder: Path) -> None:
    """Refuse the features of `fewsight embed`, whose index would pass for a CSV of labels."""
    if (folder / "index.csv").is_file() and (folder / "features-00000.safetensors").is_file():
        raise InvalidInput(
            f"{folder} holds features made by `fewsight embed`, and photos are needed here: give the photos themselves "
            "(`predict` and `evaluate` take such a folder)."
        )


class _Walker:
    """One folder, and what is learnt while walking it."""

    def __init__(self, root: Path, follow_links: bool) -> None:
        self.root = os.path.normpath(Path(root).absolute())
        self.follow_links = follow_links
        self.passed: Counter[str] = Counter()
        self.suffixes: Counter[str] = Counter()

    def folders_in(self, path: bytes = b"") -> list[bytes]:
        """Paths of the folders in one folder, without those of masks."""
        folder = list_folder(self.root, path, Counter(), follow_links=self.follow_links)
        return [
            inside for name in folder.folders if not is_mask_folder(self.root, inside := folder.inside(name))
        ]

    def walk(self) -> Iterator[Folder]:
        """All folders with their photos; masks are not photos."""
        stream = walk_folders(
            self.root,
            self.passed,
            follow_links=self.follow_links,
            skip=lambda path: is_mask_folder(self.root, path),
        )
        for folder in stream:
            parted = part_masks(folder)
            self.suffixes.update(canonical_suffix(name) for name in parted.photos)
            yield parted

    def holds_photos(self, start: bytes) -> bool:
        """Whether a photo lies anywhere below."""
        stream = walk_folders(self.root, Counter(), start=start, follow_links=self.follow_links)
        return any(folder.photos for folder in stream)

    def found(self) -> str:
        """What the folder holds, for an error."""
        photos = counted(self.suffixes) or "no photos"
        others = counted(self.passed)
        return f"found {photos}" + (f"; passed over: {others}" if others else "")


@dataclass(frozen=True)
class _Plan:
    """How the parts of a path are read; `container` is a folder `images` beside `masks`."""

    splits: bool
    level: Literal["top", "leaf", "none"]
    container: bytes

    def place(self, path: bytes) -> tuple[str | None, str | None, str | None]:
        """(split, class, group) of the photos in the folder `path`."""
        parts = [part for part in path.split(b"/") if part]
        if self.container and parts[:1] == [self.container]:
            parts = parts[1:]
        split = None
        if self.splits and parts:
            split = SPLITS.get(os.fsdecode(parts[0]).lower())
            parts = parts[1:] if split else []
        if self.level == "none":
            return split, None, _text(parts)
        if self.level == "leaf":
            return split, _text(parts), None
        return split, _text(parts[:1]), _text(parts[1:])


def _plan(walker: _Walker, level: Literal["top", "leaf", "none"]) -> _Plan:
    top = list_folder(walker.root, b"", Counter(), follow_links=walker.follow_links)
    folders, container = walker.folders_in(), b""
    if folders == [b"images"] and b"masks" in top.folders and not top.photos:
        container, folders = b"images", walker.folders_in(b"images")
    named = [os.fsdecode(path.rpartition(b"/")[2]).lower() in SPLITS for path in folders]
    splits = any(named) and not any(
        walker.holds_photos(path) for path, is_split in zip(folders, named, strict=True) if not is_split
    )
    return _Plan(splits, level, container)


def _from_folders(
    walker: _Walker, labels: Labels, class_level: Literal["top", "leaf"], skip_empty: bool
) -> Reading:
    """Class folders, or a pile."""
    plan = _plan(walker, "none" if labels == "none" else class_level)
    photos_of_class: Counter[str] = Counter()
    unlabelled: list[str] = []

    def rows() -> Iterator[Row]:
        for folder in walker.walk():
            split, label, group = plan.place(folder.path)
            if label is not None and (folder.photos or plan.level == "top" or not folder.folders):
                photos_of_class[label] += len(folder.photos)
            if label is None and labels == "required":
                unlabelled.extend(display_name(folder.inside(name)) for name in folder.photos)
                continue
            masks = masks_of(walker.root, folder) if folder.photos else {}
            for name in folder.photos:
                yield Row(folder.inside(name), (label,) if label else (), masks.get(name), group, split)

    collection = Collection.from_rows(walker.root, rows())
    warnings = []
    if labels == "required":
        warnings = _check_classes(
            walker, photos_of_class, skip_empty, _holds_labels(collection), len(unlabelled)
        )
    if unlabelled:
        warnings.append(f"{listing(unlabelled)} without a label (in no class folder), left out.")
    if plan.level == "leaf":
        collection = replace(collection, classes=_leaf_names(collection.classes))
    layout: Layout = (
        "class folders" if collection.classes else "folders" if collection.group_names else "flat"
    )
    return _reading(walker, collection, layout, warnings, unlabelled=tuple(unlabelled))


def _check_classes(
    walker: _Walker, photos_of_class: Counter[str], skip_empty: bool, labelled: bool, unlabelled: int
) -> list[str]:
    empty = [name for name, count in photos_of_class.items() if not count]
    if empty and not (skip_empty and labelled) and (labelled or not unlabelled):
        raise InvalidInput(
            f"class folder {empty[0]!r} in {walker.root} holds no photo"
            + (f" (and {len(empty) - 1} more: {', '.join(map(repr, empty[1:SHOWN]))})" if empty[1:] else "")
            + "; add photos, remove the folder, or skip empty classes (--skip-empty)."
        )
    if not labelled:
        raise InvalidInput(
            f"no labels found in {walker.root}: {walker.found()}. Expected a folder for each class, such as "
            f"{walker.root}/cat/1.jpg and {walker.root}/dog/2.jpg, or {walker.root}/index.csv with the columns "
            "image,labels."
        )
    return [f"class folder {name!r} holds no photo, left out." for name in empty]


def _leaf_names(paths: tuple[str, ...]) -> tuple[str, ...]:
    """The last parts where these differ, else the whole paths."""
    last = tuple(path.rpartition("/")[2] for path in paths)
    return last if len(set(last)) == len(last) else paths


def _from_index(walker: _Walker, labels: Labels, group_column: str | None) -> Reading | None:
    """`index.csv` beside the folders, and the photos that it does not name."""
    index = Path(walker.root, "index.csv")
    if labels == "none" or not index.is_file():
        return None
    file = read_label_file(index, group_column=group_column)
    reading = from_label_file(file, [Path(walker.root)], labels, "csv")
    walker.passed[".csv files"] -= 1  # the index itself
    return _with_unnamed(walker, reading, labels, "index.csv")


def _from_annotations(folder: Path, labels: Labels, follow_links: bool) -> Reading | None:
    """COCO, VOC or YOLO, and the photos beside the annotated ones."""
    found = None if labels == "none" else find_annotations(folder)
    if found is None:
        return None
    reading = from_label_file(*found, labels, "annotations")
    walker = _Walker(Path(reading.collection.root), follow_links)
    folders = {name.rpartition(b"/")[0] for name in reading.collection.files}
    return _with_unnamed(walker, reading, labels, found[0].path.name, folders)


def _with_unnamed(
    walker: _Walker, reading: Reading, labels: Labels, source: str, within: Container[bytes] | None = None
) -> Reading:
    """With the photos that the file `source` does not name, in the folders `within` (None: all)."""
    collection, named = reading.collection, set(reading.collection.files)
    named.update(collection.masks or ())
    passed_over = set(reading.unlabelled)
    others = [
        inside
        for folder in walker.walk()
        if within is None or folder.path in within
        for name in folder.photos
        if (inside := folder.inside(name)) not in named and display_name(inside) not in passed_over
    ]
    warnings, names = list(reading.warnings), tuple(display_name(name) for name in others)
    if others:
        done = "left out" if labels == "required" else "taken without a label"
        warnings.append(f"{listing(names)} not named in {source}, {done}.")
    if others and labels == "optional":
        rows = [*_rows_of(collection), *(Row(name) for name in others)]
        collection = Collection.from_rows(walker.root, rows, classes=collection.classes)
    unlabelled = reading.unlabelled + (names if labels == "required" else ())
    read = _reading(walker, collection, reading.layout, warnings, unlabelled=unlabelled)
    return replace(read, absent=reading.absent)


def _rows_of(collection: Collection) -> Iterator[Row]:
    for n, photo in enumerate(collection):
        mask = collection.masks[n] if collection.masks is not None else None
        yield Row(collection.files[n], photo.labels, mask or None, photo.group, photo.split)


def _from_file(path: Path, roots: tuple[Path, ...], labels: Labels, group_column: str | None) -> Reading:
    """A file of labels, or one photo."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        file = read_label_file(path, group_column=group_column)
        return from_label_file(file, roots or (path.parent,), labels, "csv")
    if suffix in ANNOTATION_SUFFIXES:
        # also where such files keep their images: a root may hold others of the same names
        places = tuple(dict.fromkeys((*roots, *image_roots(path))))
        return from_label_file(read_annotation_file(path, places), places, labels, "annotations")
    return _one_photo(path, labels)


def _from_zip(path: Path) -> Path:
    """The unpacked folder, without a single folder around all the others."""
    folder = unpacked(path)
    while len(inside := [entry for entry in folder.iterdir() if not entry.name.startswith(".")]) == 1:
        if not inside[0].is_dir() or not any(entry.is_dir() for entry in inside[0].iterdir()):
            break
        folder = inside[0]
    return folder


def _one_photo(path: Path, labels: Labels) -> Reading:
    if labels == "required":
        raise InvalidInput(
            f"{path} is one file without a label; give a folder with a folder for each class, or a CSV."
        )
    collection = Collection.from_rows(os.path.normpath(path.parent.absolute()), [Row(os.fsencode(path.name))])
    return Reading(
        collection, "one photo", f"one photo: {display_name(path.name)}", {canonical_suffix(path.name): 1}, {}
    )


def _reading(
    walker: _Walker,
    collection: Collection,
    layout: Layout,
    warnings: Sequence[str],
    *,
    unlabelled: tuple[str, ...],
) -> Reading:
    ignored = dict(+walker.passed)
    return Reading(
        collection,
        layout,
        described(collection, layout, ignored),
        dict(walker.suffixes),
        ignored,
        tuple(warnings),
        unlabelled=unlabelled,
    )


def _holds_labels(collection: Collection) -> bool:
    return len(collection.labels) > 0


def _text(parts: Sequence[bytes]) -> str | None:
    return display_name(b"/".join(parts)) or None
