"""`fewsight segment RUN --threshold T --out RUN2`: what a run answered, decided anew without looking at a photo again.

A run keeps the foreground maps and presences of its photos; thresholds only decide between them.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy

from fewsight.data.layouts import read_layout
from fewsight.errors import FewsightError, InvalidInput
from fewsight.photo_maps import labels_of_maps
from fewsight.progress import Progress
from fewsight.report.facts import RunFacts, SupportPhoto
from fewsight.report.segmentation import write_segmentation_report
from fewsight.workflows.run_record import RunRecord, read_record, record_run
from fewsight.workflows.segment_files import (
    ANSWERS,
    Pictures,
    SegmentationRun,
    draw,
    read_maps,
    read_mask,
    reported,
    write_tables,
)

__all__ = ["decide_again"]


def decide_again(
    run: Path, folder: Path, *, presence: float | None, foreground: float | None
) -> SegmentationRun:
    """Write masks, tables and report of an earlier run by other thresholds.

    Args:
        run: folder of a finished `segment`.
        folder: where the new files go.
        presence: a class is called present above this probability; None = as before.
        foreground: a pixel is a class's from this probability on; None = as before.

    Raises:
        InvalidInput: `run` is no finished run, or a threshold is not in (0, 1).
    """
    if not (run / ANSWERS).is_file() or not (run / "photos.csv").is_file():
        raise InvalidInput(
            f"{run} is not a finished run of fewsight segment. Give QUERIES to segment photos, or the folder of a run "
            "to change its thresholds."
        )
    record = read_record(run)
    thresholds = {
        "presence_threshold": _checked("presence_threshold", presence, record),
        "threshold": _checked("threshold", foreground, record),
    }
    settings = {**record.settings, **thresholds, "decided_from": str(run)}
    record_run(folder, RunRecord("segment", settings, record.data))
    with (run / "classes.csv").open(encoding="utf-8", newline="") as file:
        names = tuple(row["name"] for row in csv.DictReader(file))
    rows = [json.loads(line) for line in (run / ANSWERS).read_text(encoding="utf-8").splitlines()]
    places, root, remarks = _photos(record)
    decided = []
    with Progress("deciding", len(rows)) as bar:
        for row in rows:
            decided.append(_decided(row, run, folder, names, thresholds, places.get(row["file"]), root))
            bar.advance(1)
    remarks.append(
        f"Decided from {run} by presence above {thresholds['presence_threshold']:g} and foreground from "
        f"{thresholds['threshold']:g} on."
    )
    _report(folder, decided, names, places, remarks, settings)
    write_tables(folder, decided, names)
    counts = dict(Counter(row["status"] for row in decided))
    return SegmentationRun(folder, counts, names, tuple(remarks))


def _checked(name: str, value: float | None, record: RunRecord) -> float:
    chosen = value if value is not None else record.settings.get(name)
    chosen = 0.5 if chosen is None else float(chosen)
    if not 0 < chosen < 1:
        raise InvalidInput(f"{name} is {chosen}; expected a probability in (0, 1).")
    return chosen


def _photos(record: RunRecord) -> tuple[dict[str, str], str | None, list[str]]:
    """Where the photos lie, if they still do."""
    try:
        pile = read_layout(Path(record.settings["queries"]), labels="optional").collection
    except (FewsightError, KeyError, OSError):
        return (
            {},
            None,
            ["The photos are no longer where they were: there are masks and tables, and no overlays."],
        )
    return {pile.file(index): pile.path(index) for index in range(len(pile))}, pile.root, []


def _decided(
    row: dict[str, Any],
    run: Path,
    folder: Path,
    names: tuple[str, ...],
    thresholds: dict[str, float],
    source: str | None,
    root: str | None,
) -> dict[str, Any]:
    if not row["foreground"]:
        return row
    present = numpy.array(row["presence"]) > thresholds["presence_threshold"]
    maps = read_maps(run / row["foreground"], len(names))
    height, width = row["size"]
    labels = labels_of_maps(maps, present, (height, width), threshold=thresholds["threshold"])
    try:
        drawn = draw(folder, row["file"], source, labels, len(names), root)
    except FewsightError:  # the photo is gone since it was listed
        drawn = draw(folder, row["file"], None, labels, len(names), root)
    return row | drawn | {"present": present.tolist(), "foreground": ""}


def _report(
    folder: Path,
    rows: list[dict[str, Any]],
    names: tuple[str, ...],
    places: dict[str, str],
    remarks: list[str],
    settings: dict[str, Any],
) -> None:
    masks = {row["file"]: row["mask"] for row in rows if row["mask"]}
    labelled = sorted({(match[0], match[1]) for row in rows for match in row["nearest"]})
    support = settings.get("support", "")
    found = {name: str(Path(support) / name) for name, _ in labelled if (Path(support) / name).is_file()}
    write_segmentation_report(
        folder / "report.html",
        [reported(row, names) for row in rows],
        names,
        support=[SupportPhoto(name, (label,)) for name, label in labelled],
        read_picture=Pictures(found, places),
        read_mask=lambda kind, file: (
            read_mask(folder / masks[file]) if kind == "query" and file in masks else None
        ),
        facts=RunFacts(
            title="Where it is in the photos",
            expected_note="How well the outlines fit cannot be judged without masks of other photos.",
            remarks=tuple(remarks),
            command=f"fewsight segment {settings['decided_from']} --out {folder}",
            settings={key: value for key, value in settings.items() if value is not None},
        ),
    )
