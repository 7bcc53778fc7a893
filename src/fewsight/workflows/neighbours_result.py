"""What `fewsight neighbours` found: queries with their nearest photos, shares of each kind, the result in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewsight.evaluation.intervals import Interval

__all__ = ["KINDS", "NeighboursFound", "Photo", "QueryNeighbours"]

KINDS = ("own class", "wrong training class", "wrong test class")


@dataclass(frozen=True)
class Photo:
    """A photo, where it is, its classes, and whether it is one of those trained on."""

    file: str
    path: str
    labels: tuple[str, ...]
    trained_on: bool


@dataclass(frozen=True)
class QueryNeighbours:
    """A query with its nearest photos, the nearest first.

    Attributes:
        query: a photo of the test side.
        nearest: photos of either side.
        cosines: of each.
        kinds: of each, one of `KINDS`.
    """

    query: Photo
    nearest: tuple[Photo, ...]
    cosines: tuple[float, ...]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class NeighboursFound:
    """What `neighbours` found.

    Attributes:
        dataset, backbone: names.
        k: neighbours of each query.
        trained_on, tested: photos of the two sides.
        shares: kind -> share of the neighbours, with an interval from drawing whole queries.
        by_chance: kind -> share that neighbours drawn at random would have.
        by_class: class of the queries -> share of their neighbours from a wrong training class.
        queries: each with its neighbours, those with most from a wrong training class first.
        remarks: what was left out, in words.
        folder: with `neighbours.json`, `report.html` and `run.yaml`; None if nothing was written.
    """

    dataset: str
    backbone: str
    k: int
    trained_on: int
    tested: int
    shares: dict[str, Interval]
    by_chance: dict[str, float]
    by_class: dict[str, float]
    queries: tuple[QueryNeighbours, ...] = field(repr=False)
    remarks: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def collapse(self) -> Interval:
        """The number: share of neighbours from a wrong training class."""
        return self.shares["wrong training class"]

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json` and `neighbours.json`."""
        return {
            "dataset": self.dataset,
            "backbone": self.backbone,
            "neighbours": self.k,
            "training_photos": self.trained_on,
            "queries": self.tested,
            "shares": {
                kind: {
                    "mean": share.mean,
                    "low": _known(share.low),
                    "high": _known(share.high),
                    "by_chance": self.by_chance[kind],
                }
                for kind, share in self.shares.items()
            },
            "wrong_training_class_by_class": self.by_class,
            "remarks": list(self.remarks),
            "folder": None if self.folder is None else str(self.folder),
        }

    def sentences(self) -> Iterator[str]:
        """The result in words."""
        yield from self.remarks
        yield (
            f"{self.backbone}: {self.collapse.percent()} of the {self.k} nearest of {self.tested} queries are of a "
            f"wrong training class; by chance it would be {100 * self.by_chance['wrong training class']:.1f} %."
        )
        yield (
            f"{self.shares['own class'].percent()} are of the query's own class, "
            f"{self.shares['wrong test class'].percent()} of another test class."
        )
        if self.folder is not None:
            yield f"Pictures: {self.folder / 'report.html'}"


def _known(value: float) -> float | None:
    return None if value != value else value
