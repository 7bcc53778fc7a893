"""From a file of labels to a collection: which images exist, which have a label, and lists of those that do not."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fewsight.data.collection import Collection, Row
from fewsight.data.file_names import display_name
from fewsight.data.label_table import LabelFile, choose_root, resolve
from fewsight.data.reading import SPLITS, Labels, Layout, Reading, described, listing
from fewsight.data.walk import canonical_suffix
from fewsight.errors import InvalidInput

__all__ = ["from_label_file"]


def from_label_file(file: LabelFile, roots: Sequence[Path], labels: Labels, layout: Layout) -> Reading:
    """The images that a file names, in its order, under the one of `roots` that holds most of them.

    Raises:
        InvalidInput: none of the images exists, or where labels are required none of those has one.
    """
    root, path = choose_root(file.rows, roots), file.path
    rows: list[Row] = []
    absent: list[str] = []
    unlabelled: list[str] = []
    for written, row, exists in resolve(file, root):
        if not exists:
            absent.append(f"{written.image} ({written.where})")
        if labels == "required" and not row.labels:
            unlabelled.append(display_name(row.file))
        elif exists or labels != "required":
            split = SPLITS.get((row.split or "").lower(), row.split)
            rows.append(row._replace(split=split, labels=() if labels == "none" else row.labels))
    if absent and len(absent) == len(file.rows):
        raise InvalidInput(
            f"none of the {len(absent)} images of {path} exists under {' or '.join(map(str, roots))}; the first is "
            f"{absent[0]}. Paths are relative to that folder."
        )
    if labels == "required" and not any(row.labels for row in rows):
        raise InvalidInput(
            f"{path} labels no image that exists; fill its labels, or look at where its images lie."
        )
    warnings = list(file.warnings)
    if absent:
        warnings.append(
            f"{listing(absent)} of {path.name} not found" + (", left out." if labels == "required" else ".")
        )
    if unlabelled:
        warnings.append(f"{listing(unlabelled)} of {path.name} without a label, left out.")
    collection = Collection.from_rows(os.path.normpath(Path(root).absolute()), rows)
    suffixes = Counter(canonical_suffix(name) for name in collection.files)
    words = described(collection, layout, {})
    return Reading(collection, layout, words, suffixes, {}, tuple(warnings), tuple(absent), tuple(unlabelled))
