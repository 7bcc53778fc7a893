"""A study's table (CSV and Markdown), its picture and its findings."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewsight.files import new_file, write_text

__all__ = ["findings_of", "write_report"]

Row = dict[str, Any]
COLUMNS = ("judged_on", "measure", "cell", "seed", "what", "mean", "low", "high", "n")


def write_report(
    folder: Path, rows: Sequence[Row], reference: str, alarms: Sequence[str] = ()
) -> tuple[str, ...]:
    """Write `study.csv`, `study.md` and `study.png`; the findings in words.

    Args:
        alarms: what was told of runs that collapsed, for the table.
    """
    findings = findings_of(rows, reference)
    write_text(folder / "study.csv", _csv(rows))
    write_text(folder / "study.md", _markdown(rows, reference, findings, alarms))
    _draw(folder / "study.png", rows)
    return findings


def findings_of(rows: Sequence[Row], reference: str) -> tuple[str, ...]:
    """One sentence for each cell and measure that differs from the reference at every seed, and one on the rest.

    >>> row = {"cell": "a", "seed": 0, "judged_on": "x", "what": "difference", "measure": "m", "n": 9}
    >>> findings_of([{**row, "mean": 0.02, "low": 0.01, "high": 0.03}], "b")
    ('a above b on x, m: by 2.0 points (1 of 1 seeds, each interval above 0).',)
    """
    found, silent = [], 0
    differences = [row for row in rows if row["what"] == "difference"]
    for cell, judged, measure in dict.fromkeys(
        (r["cell"], r["judged_on"], r["measure"]) for r in differences
    ):
        own = [r for r in differences if (r["cell"], r["judged_on"], r["measure"]) == (cell, judged, measure)]
        mean = sum(row["mean"] for row in own) / len(own)
        for word, sided in (
            ("above", all(row["low"] > 0 for row in own)),
            ("below", all(row["high"] < 0 for row in own)),
        ):
            if sided:
                found.append(
                    f"{cell} {word} {reference} on {judged}, {measure}: by {100 * abs(mean):.1f} points "
                    f"({len(own)} of {len(own)} seeds, each interval {word} 0)."
                )
                break
        else:
            silent += 1
    if silent:
        others = "the other " if found else ""
        found.append(f"No difference shown in {others}{silent} comparisons with {reference}.")
    return tuple(found)


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _markdown(rows: Sequence[Row], reference: str, findings: Sequence[str], alarms: Sequence[str]) -> str:
    figures = [row for row in rows if row["what"] == "figure"]
    cells = list(dict.fromkeys(row["cell"] for row in figures))
    seeds = sorted({row["seed"] for row in figures})
    lines = [f"| judged on | measure | {' | '.join(cells)} |", f"|---|---|{'---|' * len(cells)}"]
    for judged, measure in dict.fromkeys((row["judged_on"], row["measure"]) for row in figures):
        entries = []
        for cell in cells:
            own = [
                row
                for row in figures
                if (row["cell"], row["judged_on"], row["measure"]) == (cell, judged, measure)
            ]
            entries.append(" / ".join(_percent(row) for row in own))
        lines.append(f"| {judged} | {measure} | {' | '.join(entries)} |")
    head = f"Percent with 95 % intervals, one figure for each of {len(seeds)} seeds. Reference: {reference}."
    told = ["", "Told while they were trained:", "", *(f"- {alarm}" for alarm in alarms)] if alarms else []
    return "\n".join([head, "", *lines, "", *(f"- {sentence}" for sentence in findings), *told, ""])


def _percent(row: Row) -> str:
    half = 50 * (row["high"] - row["low"])
    return f"{100 * row['mean']:.1f} ± {half:.1f}"


def _draw(path: Path, rows: Sequence[Row]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figures = [row for row in rows if row["what"] == "figure"]
    panels = list(dict.fromkeys((row["judged_on"], row["measure"]) for row in figures))
    cells = list(dict.fromkeys(row["cell"] for row in figures))
    picture = Figure(figsize=(8, 0.6 + len(panels) * (0.55 + 0.24 * len(cells))), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (judged, measure) in zip(axes, panels, strict=True):
        for row in figures:
            if (row["judged_on"], row["measure"]) != (judged, measure):
                continue
            height = cells.index(row["cell"]) + 0.15 * row["seed"]
            axis.plot([100 * row["low"], 100 * row["high"]], [height, height], color="#7a7a7a", lw=1.5)
            axis.plot([100 * row["mean"]], [height], "o", color="#1f5fa8", ms=4)
        axis.set_yticks(range(len(cells)), cells, fontsize=8)
        axis.set_ylim(len(cells) - 0.3, -0.5)  # the first cell on top, no line on the frame
        axis.set_title(
            f"{judged}: {measure}, % (95 % interval, a line for each seed)", fontsize=9, loc="left"
        )
        axis.grid(axis="x", alpha=0.3)
    with new_file(path) as file:
        picture.savefig(file, format="png", dpi=110)
