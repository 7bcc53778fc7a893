"""`--also`: the rows of `predict` as other tools read them.

- `label-studio`: tasks with pre-annotations ("predictions" with model version and score, never "annotations", so that
  nothing counts as confirmed before a person has looked), and the labelling configuration that fits them;
- `timelapse`: a CSV whose columns `File` and `RelativePath` find the photo in Timelapse, one row a photo;
- `parquet`: the columns of `predictions.csv`, with the truth and label sets where there are any; needs pyarrow.

All are written from rows that stay on the disk, at flat memory, whole or not at all.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from fewsight.errors import InvalidInput
from fewsight.files import new_file, write_text
from fewsight.names import closest
from fewsight.predictions import Prediction

__all__ = ["EXPORTS", "ExportFacts", "check_exports", "export_rows"]

DIGITS = 6
ROWS = 65_536  # of a Parquet row group


@dataclass(frozen=True)
class ExportFacts:
    """What a format says besides the rows: the classes, the model's version, the folder of the photos."""

    classes: Sequence[str]
    version: str
    root: Path


def check_exports(names: Sequence[str]) -> None:
    """Refuse what cannot be written, before the work and not after it.

    Raises:
        InvalidInput: a format is unknown, or pyarrow is missing for Parquet.
    """
    for name in names:
        if name not in EXPORTS:
            raise InvalidInput(f"--also {name!r} is unknown. {closest(name, list(EXPORTS))}")
        if name == "parquet":
            _pyarrow()


def export_rows(name: str, rows: Iterable[Prediction], facts: ExportFacts, folder: Path) -> list[Path]:
    """Write one format into the run's folder; gives the files.

    Raises:
        InvalidInput: the format is unknown, or what it needs is not installed.
        FewsightError: it cannot be written.
    """
    check_exports([name])
    return EXPORTS[name](rows, facts, folder)


# --- Label Studio


def _label_studio(rows: Iterable[Prediction], facts: ExportFacts, folder: Path) -> list[Path]:
    tasks, config = folder / "label-studio.json", folder / "label-studio.xml"
    with new_file(tasks, "w") as file:
        file.write("[")
        for number, row in enumerate(rows):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(_task(row, facts.version), ensure_ascii=False, allow_nan=False))
        file.write("\n]\n")
    choice = "multiple" if any(row.labels for row in rows) else "single"
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in facts.classes)
    write_text(
        config,
        f'<View>\n  <Image name="image" value="$image"/>\n  <Choices name="label" toName="image" choice="{choice}">\n'
        f"{choices}\n  </Choices>\n</View>\n",
    )
    return [tasks, config]


def _task(row: Prediction, version: str) -> dict[str, Any]:
    """One task; `d` is relative to the folder that Label Studio serves local files from."""
    data = {"image": f"/data/local-files/?d={quote(row.file)}", "status": row.status, "note": row.note}
    if not row.answered:
        return {"data": data, "predictions": []}
    value = {"choices": list(row.labels or (row.label,))}
    result = {"from_name": "label", "to_name": "image", "type": "choices", "value": value}
    said = {"model_version": version, "score": _rounded(row.score), "result": [result]}
    return {"data": data, "predictions": [said]}


# --- Timelapse


def _timelapse(rows: Iterable[Prediction], facts: ExportFacts, folder: Path) -> list[Path]:
    path = folder / "timelapse.csv"
    header = (
        "RootFolder",
        "File",
        "RelativePath",
        "Label",
        "Score",
        "RunnerUp",
        "RunnerUpScore",
        "Status",
        "Note",
    )
    with new_file(path, "w") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(header)
        for row in rows:
            place, _, name = row.file.rpartition("/")
            answer = (row.label, _text(row.score), row.runner_up, _text(row.runner_up_score))
            answer = answer if row.answered else ("", "", "", "")
            # Timelapse runs on Windows and writes its folders so
            cells = (facts.root.name, name, place.replace("/", "\\"), *answer, row.status, row.note)
            writer.writerow("" if cell is None else cell for cell in cells)
    return [path]


# --- Parquet


def _parquet(rows: Iterable[Prediction], facts: ExportFacts, folder: Path) -> list[Path]:
    pyarrow, parquet = _pyarrow()
    text, number, texts = pyarrow.string(), pyarrow.float64(), pyarrow.list_(pyarrow.string())
    columns = {
        "file": text, "label": text, "score": number, "runner_up": text, "runner_up_score": number, "margin": number,
        "novelty": number, "status": text, "note": text, "labels": texts, "label_set": texts, "truth": texts,
    }  # fmt: skip
    schema = pyarrow.schema(list(columns.items()))
    path = folder / "predictions.parquet"
    stream = iter(rows)
    with new_file(path) as file, parquet.ParquetWriter(file, schema) as writer:
        while part := list(islice(stream, ROWS)):
            writer.write_table(pyarrow.Table.from_pylist([_record(row) for row in part], schema=schema))
    return [path]


def _record(row: Prediction) -> dict[str, Any]:
    return {
        "file": row.file,
        "label": row.label if row.answered else None,
        "score": _rounded(row.score),
        "runner_up": row.runner_up,
        "runner_up_score": _rounded(row.runner_up_score),
        "margin": _rounded(row.margin),
        "novelty": _rounded(row.novelty),
        "status": row.status,
        "note": row.note,
        "labels": list(row.labels),
        "label_set": None if row.label_set is None else list(row.label_set),
        "truth": list(row.truth),
    }


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InvalidInput("--also parquet needs pyarrow: pip install pyarrow.") from error
    return pyarrow, parquet


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.{DIGITS}g}"


EXPORTS: dict[str, Callable[[Iterable[Prediction], ExportFacts, Path], list[Path]]] = {
    "label-studio": _label_studio,
    "timelapse": _timelapse,
    "parquet": _parquet,
}
