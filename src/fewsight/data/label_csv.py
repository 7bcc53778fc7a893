"""Labels from a CSV file, as people and their programs write them.

Byte order marks, semicolons or tabs between columns, any line ends, quotes, Windows paths and a missing header are
read; whatever cannot be read one way only is an error that names the line.

Columns are known by name (case does not matter): image (or file, file_name, path), labels (several joined by `;`) or
label (exactly one), and where present mask, split, group. Further columns are left alone, so that a corrected
`predictions.csv` is a label file; its rows without a label are passed over.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fewsight.data.collection import Row
from fewsight.data.file_names import parse_display_name
from fewsight.data.signatures import IMAGE_SUFFIXES
from fewsight.data.walk import suffix_of
from fewsight.errors import InvalidInput

__all__ = ["LabelFile", "choose_root", "read_label_file", "resolve"]

COLUMNS: dict[str, tuple[str, ...]] = {
    "image": ("image", "file", "file_name", "filename", "path", "image_path", "filepath", "photo", "img"),
    "labels": ("labels",),
    "label": ("label", "class", "class_name", "category", "species", "tag"),
    "mask": ("mask", "masks", "mask_path"),
    "split": ("split", "subset", "fold", "set"),
    "group": ("group", "sequence", "seq_id", "burst", "station", "location"),
}
MAX_BYTES = 4 << 30


class LabelRow(NamedTuple):
    """One line of a label file, as written."""

    line: int
    image: str
    labels: tuple[str, ...]
    mask: str
    split: str
    group: str


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


def read_label_file(path: str | Path) -> LabelFile:
    """Read a CSV of labels.

    Raises:
        InvalidInput: with the line: no image column, a row with more or fewer fields than the header, an empty file
            name, text that is not UTF-8, one image twice with different labels.
    """
    path = Path(path)
    text = _text(path)
    records = _records(path, text)
    try:
        first = next(records)
    except StopIteration:
        raise InvalidInput(f"{path} is empty; expected a header line such as image,labels.") from None
    columns, header = _columns(path, first[1])
    if not header:
        records = _records(path, text)
    width = len(first[1])
    rows, warnings = _unique(path, (_row(path, line, fields, columns, width) for line, fields in records))
    if not header:
        warnings.append(f"{path.name} has no header; its columns are taken as image, label.")
    return LabelFile(path, tuple(rows), tuple(warnings))


def choose_root(rows: Sequence[LabelRow], roots: Sequence[Path]) -> Path:
    """The root under which most of the first hundred images exist; the first one of equals."""
    sample = rows[:: max(1, len(rows) // 100)][:100]
    found = [sum((root / _native(row.image)).exists() for row in sample) for root in roots]
    return roots[found.index(max(found))]


def resolve(file: LabelFile, root: Path) -> Iterator[tuple[LabelRow, Row, bool]]:
    """Each line with its row of a collection under `root`, and whether the image exists.

    Raises:
        InvalidInput: with the line, for a path that leads out of `root`.
    """
    for row in file.rows:
        name, exists = _inside(file.path, row.line, row.image, root)
        mask = _inside(file.path, row.line, row.mask, root)[0] if row.mask else None
        yield row, Row(name, row.labels, mask, row.group or None, row.split or None), exists


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidInput(f"{path} has more than {MAX_BYTES:,} bytes; split it.")
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{path} is damaged UTF-16; save it as UTF-8.") from error
    return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """(first line, fields) of each record that is not blank."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=_delimiter(text), skipinitialspace=True, strict=True
    )
    line = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InvalidInput(f"{path}, line {line}: {error}.") from error
        if any(field.strip() for field in fields):
            yield line, fields
        line = reader.line_num + 1


def _delimiter(text: str) -> str:
    """The one of `,` `;` tab that parts the first line that is not blank; quoted text does not count."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    outside = "".join(first.split('"')[::2])
    return max(",;\t", key=lambda mark: (outside.count(mark), mark == ","))


def _columns(path: Path, first: list[str]) -> tuple[dict[str, int], bool]:
    """Position of each known column, and whether `first` is a header."""
    names = [name.strip().lower() for name in first]
    columns: dict[str, int] = {}
    for column, spellings in COLUMNS.items():
        position = next((names.index(spelling) for spelling in spellings if spelling in names), None)
        if position is not None:
            columns[column] = position
    if "image" in columns:
        return columns, True
    if len(first) in (1, 2) and suffix_of(first[0].strip()) in IMAGE_SUFFIXES:
        return ({"image": 0, "label": 1} if len(first) == 2 else {"image": 0}), False
    raise InvalidInput(
        f"{path}, line 1: no column names the images (found {', '.join(map(repr, first[:8]))}); expected a header "
        "such as image,labels."
    )


def _row(path: Path, line: int, fields: list[str], columns: dict[str, int], width: int) -> LabelRow:
    while len(fields) > width and not fields[-1].strip():
        fields = fields[:-1]  # a separator at the end of a line
    if len(fields) != width:
        raise InvalidInput(f"{path}, line {line}: {len(fields)} fields, but the header has {width}.")
    values = {column: fields[position].strip() for column, position in columns.items() if column != "label"}
    if not values["image"]:
        raise InvalidInput(f"{path}, line {line}: the name of the image is empty.")
    if "\0" in values["image"]:
        raise InvalidInput(f"{path}, line {line}: the name of the image holds a zero byte.")
    several = tuple(label for part in values.get("labels", "").split(";") if (label := part.lstrip()))
    # a space at the end of a label is kept: it is reported as a second spelling
    single = fields[columns["label"]].lstrip() if "label" in columns else ""
    labels = tuple(dict.fromkeys(several)) or ((single,) if single.strip() else ())
    for text in labels:
        if any("\udc80" <= letter <= "\udcff" for letter in text):
            raise InvalidInput(
                f"{path}, line {line}: the label {text!r} is not UTF-8; save the file as UTF-8."
            )
    return LabelRow(
        line, values["image"], labels, *(values.get(name, "") for name in ("mask", "split", "group"))
    )


def _unique(path: Path, rows: Iterator[LabelRow]) -> tuple[list[LabelRow], list[str]]:
    """Rows without repeats; the same image twice with different labels is an error."""
    seen: dict[str, LabelRow] = {}
    repeats: list[int] = []
    for row in rows:
        before = seen.setdefault(row.image, row)
        if before is row:
            continue
        if before.labels != row.labels:
            raise InvalidInput(
                f"{path}, line {row.line}: {row.image} has the labels {_spelled(row.labels)}, but "
                f"{_spelled(before.labels)} in line {before.line}; keep one, or write several as labels joined by ;."
            )
        repeats.append(row.line)
    warnings = (
        [f"{path.name}: {len(repeats)} rows repeat an image (first in line {repeats[0]})."] if repeats else []
    )
    return list(seen.values()), warnings


def _spelled(labels: tuple[str, ...]) -> str:
    return repr(";".join(labels)) if labels else "(none)"


def _inside(path: Path, line: int, text: str, root: Path) -> tuple[bytes, bool]:
    """A path of the file as a name under `root`, and whether it exists."""
    names = [text]
    if "\\" in text:  # a Windows path, or a name with escaped bytes, or really a backslash
        names += [_native(text), os.fsdecode(parse_display_name(text))]
    inside = [name for name in (_relative(name, root) for name in names) if name is not None]
    if not inside or _relative(_native(text), root) is None:
        raise InvalidInput(
            f"{path}, line {line}: {text} lies outside {root}; write paths relative to that folder."
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
