"""`LabelFile`: what any file of labels says, row by row, before it is known which images exist.

Readers of CSV, COCO and others make one; here its paths are looked up, and kept inside their folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fewsight.data.collection import Row
from fewsight.data.file_names import parse_display_name
from fewsight.errors import InvalidInput

__all__ = ["LabelFile", "LabelRow", "choose_root", "label_file", "resolve"]


class LabelRow(NamedTuple):
    """What a label file says of one image, as written; `where` in the file, such as `line 3`."""

    where: str
    image: str
    labels: tuple[str, ...]
    mask: str = ""
    split: str = ""
    group: str = ""
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class LabelFile:
    """What a label file says.

    Attributes:
        path: of the file.
        rows: one for each image, in the order of the file.
        warnings: in words.
    """

    path: Path
    rows: tuple[LabelRow, ...]
    warnings: tuple[str, ...] = ()


def label_file(path: Path, rows: Iterable[LabelRow], warnings: Sequence[str] = ()) -> LabelFile:
    """Rows without repeats.

    Raises:
        InvalidInput: the same image twice with different labels.
    """
    kept, repeats = _unique(path, iter(rows))
    return LabelFile(path, tuple(kept), (*repeats, *warnings))


def choose_root(rows: Sequence[LabelRow], roots: Sequence[Path]) -> Path:
    """The root under which most of the first hundred images exist; the first one of equals."""
    sample = rows[:: max(1, len(rows) // 100)][:100]
    found = [sum(os.path.lexists(root / _native(row.image)) for row in sample) for root in roots]
    return roots[found.index(max(found))]


def resolve(file: LabelFile, root: Path) -> Iterator[tuple[LabelRow, Row, bool]]:
    """Each row with its row of a collection under `root`, and whether the image exists.

    Raises:
        InvalidInput: with the place, for a path that leads out of `root`.
    """
    for row in file.rows:
        name, exists = _inside(file.path, row.where, row.image, root)
        mask = _inside(file.path, row.where, row.mask, root)[0] if row.mask else None
        yield row, Row(name, row.labels, mask, row.group or None, row.split or None, row.box), exists


def _unique(path: Path, rows: Iterator[LabelRow]) -> tuple[list[LabelRow], list[str]]:
    """Rows without repeats; the same image twice with different labels is an error."""
    seen: dict[str, LabelRow] = {}
    repeats: list[str] = []
    for row in rows:
        before = seen.setdefault(row.image, row)
        if before is row:
            continue
        if before.labels != row.labels:
            raise InvalidInput(
                f"{path}, {row.where}: {row.image} has the labels {_spelled(row.labels)}, but "
                f"{_spelled(before.labels)} in {before.where}; keep one, or write several as labels joined by ;."
            )
        repeats.append(row.where)
    warnings = (
        [f"{path.name}: {len(repeats)} rows repeat an image (first in {repeats[0]})."] if repeats else []
    )
    return list(seen.values()), warnings


def _spelled(labels: tuple[str, ...]) -> str:
    return repr(";".join(labels)) if labels else "(none)"


def _inside(path: Path, where: str, text: str, root: Path) -> tuple[bytes, bool]:
    """A path of the file as a name under `root`, and whether it exists."""
    names = [text]
    if "\\" in text:  # a Windows path, or a name with escaped bytes, or really a backslash
        names += [_native(text), os.fsdecode(parse_display_name(text))]
    inside = [name for name in (_relative(name, root) for name in names) if name is not None]
    if not inside or _relative(_native(text), root) is None:
        raise InvalidInput(
            f"{path}, {where}: {text} lies outside {root}; write paths relative to that folder."
        )
    for name in inside:
        if os.path.lexists(root / name):
            return os.fsencode(name), True
    return os.fsencode(inside[min(1, len(inside) - 1)]), False


def _native(text: str) -> str:
    return text.replace("\\", "/")


def _relative(text: str, root: Path) -> str | None:
    """`text` relative to `root` without `.` and `..`, or None where it leads out."""
    if len(text) > 1 and text[1] == ":" and text[0].isalpha():
        return None  # a Windows drive
    base = os.path.normpath(root.absolute())
    full = os.path.normpath(Path(base, text))
    if full == base or not full.startswith(base.rstrip(os.sep) + os.sep):
        return None
    return full[len(base.rstrip(os.sep)) + 1 :]
