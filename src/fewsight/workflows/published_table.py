"""A row of Meta-Dataset beside the published ones, as lines of text and as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewsight.protocols.meta_dataset import Figure, RankedRow, ranked

__all__ = ["published_table"]

GROUPS = ("ImageNet", "eight sources")


def published_table(name: str, figures: Mapping[str, Figure]) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Our row among each group of published ones, by average rank over the sources that were scored.

    Returns:
        Lines for people; and for programs a mapping for each row.
    """
    lines: list[str] = []
    values: list[dict[str, Any]] = []
    for group in GROUPS:
        rows = ranked(name, figures, group)
        lines += _lines(group, rows, list(figures))
        values += [
            {
                "trained_on": None if row.ours else group,
                "beside": group,
                "method": row.method,
                "ours": row.ours,
                "average_rank": row.average_rank,
                "figures": {source: list(row.figures[source]) for source in figures},
            }
            for row in rows
        ]
    return tuple(lines), values


def _lines(group: str, rows: Sequence[RankedRow], sources: list[str]) -> list[str]:
    width = max(len(row.method) for row in rows)
    heading = "  ".join(f"{source:>14}" for source in sources)
    lines = [
        f"Beside the published rows trained on {group} (percent with 95 % intervals, ranks over these sources):",
        f"  {'method':<{width}}  {'rank':>5}  {heading}",
    ]
    for row in rows:
        rank = "-" if row.average_rank is None else f"{row.average_rank:.2f}"
        cells = "  ".join(f"{_cell(row.figures[source]):>14}" for source in sources)
        lines.append(f"{'>' if row.ours else ' '} {row.method:<{width}}  {rank:>5}  {cells}")
    return lines


def _cell(figure: Figure) -> str:
    return f"{figure.mean:.2f} ± {figure.half_width:.2f}"
