"""Parquet tables of labels, when pyarrow is installed: the columns of a label CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewsight.data.label_csv import COLUMNS
from fewsight.data.label_table import LabelFile, LabelRow, label_file
from fewsight.errors import InvalidInput

__all__ = ["read_parquet"]


def read_parquet(path: Path) -> LabelFile:
    """Image labels, in the order of the rows; `labels` may be a list of texts or one text joined by `;`.

    Raises:
        InvalidInput: pyarrow is not installed, the file is no Parquet, or no column names the images.
    """
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-not-found]
    except ImportError as error:
        raise InvalidInput(
            f"{path} is a Parquet file: install pyarrow (pip install pyarrow), or give a CSV."
        ) from error
    try:
        present = {name.lower(): name for name in parquet.read_schema(path).names}
        columns = {
            column: present[spelling]
            for column, spellings in COLUMNS.items()
            for spelling in spellings[::-1]
            if spelling in present
        }
        if "image" not in columns:
            raise InvalidInput(f"{path}: no column names the images (found {', '.join(present)}).")
        table = parquet.read_table(path, columns=sorted(set(columns.values())))
        rows = table.to_pylist()
    except (ArrowException, OSError) as error:
        raise InvalidInput(f"{path} is no readable Parquet file ({error}).") from error
    return label_file(path, (_row(path, number, row, columns) for number, row in enumerate(rows)))


def _row(path: Path, number: int, row: dict[str, Any], columns: dict[str, str]) -> LabelRow:
    values = {column: row.get(name) for column, name in columns.items()}
    image = values["image"]
    if not isinstance(image, str) or not image:
        raise InvalidInput(
            f"{path}, row {number}: the image is {type(image).__name__}; expected its file name."
        )
    several = values.get("labels")
    if isinstance(several, str):
        several = [part.lstrip() for part in several.split(";")]
    single = values.get("label")
    labels = [str(label) for label in several or ([] if single is None else [single]) if str(label).strip()]
    mask, split, group = (str(values.get(name) or "") for name in ("mask", "split", "group"))
    return LabelRow(f"row {number}", image, tuple(dict.fromkeys(labels)), mask, split, group)
