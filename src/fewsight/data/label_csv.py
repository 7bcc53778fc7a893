"""Labels from a CSV file, as people and their programs write them.

Byte order marks, semicolons or tabs between columns, any line ends, quotes, Windows paths and a missing header are
read; whatever cannot be read one way only is an error that names the line.

Columns are known by name (case does not matter): image (or file, file_name, path), labels (several joined by `;`) or
label (exactly one), and where present mask, split, group, and the relative path of Timelapse. Further columns are
left alone, so that a corrected `predictions.csv` is a label file; its rows without a label are passed over.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from fewsight.data.label_table import LabelFile, LabelRow, label_file
from fewsight.data.signatures import IMAGE_SUFFIXES
from fewsight.data.walk import suffix_of
from fewsight.errors import InvalidInput

__all__ = ["read_label_file"]

COLUMNS: dict[str, tuple[str, ...]] = {
    "image": ("image", "file", "file_name", "filename", "path", "image_path", "filepath", "photo", "img"),
    "labels": ("labels",),
    "label": ("label", "class", "class_name", "category", "species", "tag"),
    "folder": ("relativepath", "relative_path"),
    "mask": ("mask", "masks", "mask_path"),
    "split": ("split", "subset", "fold", "set"),
    "group": ("group", "sequence", "seq_id", "burst", "station", "location"),
}
MAX_BYTES = 4 << 30


def read_label_file(path: str | Path, *, group_column: str | None = None) -> LabelFile:
    """Read a CSV of labels.

    Args:
        group_column: the column that names the group of each image; None takes one of the usual names.

    Raises:
        InvalidInput: with the line: no image column, no column `group_column`, a row with more or fewer fields than
            the header, an empty file name, text that is not UTF-8, one image twice with different labels.
    """
    path = Path(path)
    text = _text(path)
    records = _records(path, text)
    try:
        first = next(records)
    except StopIteration:
        raise InvalidInput(f"{path} is empty; expected a header line such as image,labels.") from None
    columns, header = _columns(path, first[1])
    if group_column is not None:
        columns["group"] = _named(path, first[1] if header else [], group_column)
    if not header:
        records = _records(path, text)
    width = len(first[1])
    rows = (_row(path, line, fields, columns, width) for line, fields in records)
    warnings = [] if header else [f"{path.name} has no header; its columns are taken as image, label."]
    return label_file(path, rows, warnings)


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


def _named(path: Path, header: list[str], column: str) -> int:
    """The position of a column that was asked for."""
    names = [name.strip().lower() for name in header]
    if column.strip().lower() not in names:
        raise InvalidInput(
            f"{path} has no column {column!r} to group by; its columns are {', '.join(header[:20]) or 'not named'}."
        )
    return names.index(column.strip().lower())


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
    image = values["image"]
    if values.get("folder"):  # Timelapse keeps the folder in a column of its own
        image = f"{values['folder']}/{image}"
    mask, split, group = (values.get(name, "") for name in ("mask", "split", "group"))
    return LabelRow(f"line {line}", image, labels, mask, split, group)
