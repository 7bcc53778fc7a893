"""`predictions.csv` and `predictions.jsonl`: written part by part, so that a killed run goes on where it was.

Rows go into `predictions.part.jsonl` in whole parts; a part is on the disk before the next one begins. At the end the
part file becomes `predictions.jsonl`, and `predictions.csv` is made from it.
"""

from __future__ import annotations

import csv
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fewsight.files import new_file, said_of_disk
from fewsight.predictions import Explanation, MatchedPatch, Prediction, SupportMatch

__all__ = ["COLUMNS", "PartFile", "StoredPredictions", "write_tables"]

COLUMNS = ("file", "label", "score", "runner_up", "runner_up_score", "margin", "novelty", "status", "note")
PART = "predictions.part.jsonl"
DIGITS = 6  # of scores: far finer than any of them is known


class PartFile:
    """The rows that are finished so far, in input order.

    `finished` is the number of whole parts; a part that was cut short by a kill is dropped on opening.
    """

    def __init__(self, folder: Path, part_sizes: list[int]) -> None:
        self.path = folder / PART
        self.finished = self._repair(part_sizes)

    def _repair(self, part_sizes: list[int]) -> int:
        if not self.path.exists():
            return 0
        ends, lines = [0], 0
        with said_of_disk(self.path), self.path.open("rb+") as file:
            wanted = iter(part_sizes)
            due = next(wanted, None)
            while due is not None and file.readline().endswith(b"\n"):
                lines += 1
                if lines == due:
                    ends.append(file.tell())
                    lines, due = 0, next(wanted, None)
            file.truncate(ends[-1])
        return len(ends) - 1

    def append(self, rows: Iterable[Prediction]) -> None:
        """Add one part; it is on the disk when this returns."""
        text = "".join(_line(row) for row in rows)
        with said_of_disk(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def _line(row: Prediction) -> str:
    """One row as JSON, without what is empty; the keys are the fields of `Prediction`."""
    values: dict[str, Any] = {
        "file": row.file,
        "status": row.status,
        "note": row.note,
        "label": row.label,
        "score": _rounded(row.score),
        "runner_up": row.runner_up,
        "runner_up_score": _rounded(row.runner_up_score),
        "novelty": _rounded(row.novelty),
        "probabilities": {name: round(share, DIGITS) for name, share in row.probabilities.items()},
        "labels": row.labels,
        "label_set": row.label_set,
        "nearest": [_match(match) for match in row.nearest],
        "truth": row.truth,
        "reasons": None if row.reasons is None else _reasons(row.reasons),
    }
    kept = {
        key: value for key, value in values.items() if value is not None and value not in ("", (), [], {})
    }
    return json.dumps(kept, ensure_ascii=False, allow_nan=False) + "\n"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _match(match: SupportMatch) -> dict[str, Any]:
    return {"file": match.file, "label": match.label, "similarity": round(match.similarity, DIGITS)}


def _reasons(reasons: Explanation) -> dict[str, Any]:
    return {
        "label": reasons.label,
        "runner_up": reasons.runner_up,
        "nearest": [_match(match) for match in reasons.nearest],
        "nearest_of_runner_up": [_match(match) for match in reasons.nearest_of_runner_up],
        "patches": [asdict(patch) for patch in reasons.patches],
        "patches_of_runner_up": [asdict(patch) for patch in reasons.patches_of_runner_up],
        "evidence": [[round(value, DIGITS) for value in row] for row in reasons.evidence],
    }


class StoredPredictions(Sequence[Prediction]):
    """The rows of a `predictions.jsonl`, read when they are asked for: memory does not grow with their number."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts = array("q")
        with path.open("rb") as file:
            start = 0
            for line in file:
                self._starts.append(start)
                start += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Prediction]:
        with self.path.open("rb") as file:
            for line in file:
                yield _row(json.loads(line.decode()))

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        with self.path.open("rb") as file:
            file.seek(self._starts[index])
            return _row(json.loads(file.readline().decode()))


def _row(values: dict[str, Any]) -> Prediction:
    for key in ("labels", "label_set", "truth"):
        if key in values:
            values[key] = tuple(values[key])
    if "nearest" in values:
        values["nearest"] = _matches(values["nearest"])
    if "reasons" in values:
        reasons = values["reasons"]
        patches = tuple(
            MatchedPatch(tuple(p["query"]), p["file"], tuple(p["support"]), p["weight"])
            for p in reasons["patches"]
        )
        values["reasons"] = Explanation(
            reasons["label"],
            reasons["runner_up"],
            _matches(reasons["nearest"]),
            _matches(reasons["nearest_of_runner_up"]),
            patches,
        )
    return Prediction(**values)


def _matches(values: list[dict[str, Any]]) -> tuple[SupportMatch, ...]:
    return tuple(SupportMatch(**match) for match in values)


def write_tables(folder: Path) -> None:
    """Make `predictions.csv` of the finished parts; then the part file becomes `predictions.jsonl`."""
    part = folder / PART
    rows = StoredPredictions(part)
    with new_file(folder / "predictions.csv", "w") as file:
        writer = csv.writer(file, lineterminator="\r\n")  # RFC 4180
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow(_cells(row))
    with said_of_disk(folder):
        part.replace(folder / "predictions.jsonl")


def _cells(row: Prediction) -> list[str]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.{DIGITS}g}"

    label = row.label if row.answered else None
    return [
        row.file,
        label or "",
        number(row.score),
        row.runner_up or "",
        number(row.runner_up_score),
        number(row.margin),
        number(row.novelty),
        row.status,
        row.note,
    ]
