"""`--sort-into FOLDER`: the photos by label, as links where the disk allows them, else as copies."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fewsight.data.collection import Collection
from fewsight.errors import InvalidInput
from fewsight.files import said_of_disk
from fewsight.predictions import Prediction
from fewsight.report.doubt import certainty

__all__ = ["sort_photos"]

_UNSAFE = re.compile(r"[\x00-\x1f/\\:*?\"<>|]")


def sort_photos(rows: Iterable[Prediction], pile: Collection, folder: Path) -> str:
    """Link or copy every answered photo into `folder`/LABEL, those in doubt into `doubtful`/LABEL, the rest apart.

    Returns:
        A sentence that says how many went where.

    Raises:
        InvalidInput: the folder holds something already.
        FewsightError: it cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InvalidInput(
            f"--sort-into {folder} is not empty: choose another folder, so that nothing is mixed."
        )
    counts: Counter[str] = Counter()
    for index, row in enumerate(rows):
        place = _place(row)
        if place is None:
            continue
        counts[place[0] if place[0] in ("doubtful", "none of these", "duplicates") else "by label"] += 1
        target = folder.joinpath(*place)
        with said_of_disk(target):
            target.mkdir(parents=True, exist_ok=True)
            _link(Path(pile.path(index)), _free_name(target, pile.path(index)))
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    return f"Sorted into {folder}: {told or 'nothing'}."


def _place(row: Prediction) -> tuple[str, ...] | None:
    if row.status == "rejected":
        return ("none of these",)
    if row.status == "duplicate":
        return ("duplicates",)
    if not row.answered or row.label is None:
        return None
    label = folder_name(row.label)
    return ("doubtful", label) if certainty(row) == "in doubt" else (label,)


def folder_name(label: str) -> str:
    """A label as the name of one folder, on any system.

    >>> folder_name("a/b"), folder_name(".."), folder_name("Fuchs ")
    ('a_b', '_', 'Fuchs')
    """
    name = _UNSAFE.sub("_", label).strip(" .")
    return name[:100] or "_"


def _free_name(folder: Path, path: str) -> Path:
    name = Path(path).name
    candidate, number = folder / name, 1
    while os.path.lexists(candidate):
        number += 1
        candidate = folder / f"{Path(name).stem} ({number}){Path(name).suffix}"
    return candidate


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
