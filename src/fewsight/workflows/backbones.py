"""`fewsight backbones`: the table of backbones, and fetching one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewsight.backbones.registry import Row, rows
from fewsight.files import sha256
from fewsight.progress import quieted

__all__ = ["BackboneList", "Fetched", "get_backbone", "list_backbones"]


@dataclass(frozen=True)
class BackboneList:
    """The rows of the table."""

    rows: tuple[Row, ...]

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {"backbones": [row.as_dict() for row in self.rows]}

    def sentences(self) -> Iterator[str]:
        """A table in plain text."""
        yield f"{'name':<18}{'weights':>10}{'input':>7}  {'here':<5}{'commercial use':<16}licence"
        for row in self.rows:
            size = f"{row.parameters:.1f} M"
            allowed = {True: "yes", False: "no", None: "see licence"}[row.licence.commercial]
            here = "yes" if row.here else "no"
            note = f" ({row.licence.note})" if row.licence.note else ""
            yield f"{row.name:<18}{size:>10}{row.side:>7}  {here:<5}{allowed:<16}{row.licence.name}{note}"
        yield "Any other name of timm with its tag, `hf-hub:OWNER/NAME`, or a file of weights works, too."
        yield "Fetch one: fewsight backbones --get dinov2-s"


@dataclass(frozen=True)
class Fetched:
    """One fetched file."""

    name: str
    path: Path

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {"name": self.name, "path": str(self.path), "sha256": sha256(self.path)}

    def sentences(self) -> Iterator[str]:
        """Where it lies and what to do with it."""
        yield f"{self.name} lies in {self.path}."
        yield f"Use it: --backbone {self.name}"


def list_backbones(*, commercial: bool = False) -> BackboneList:
    """The table; with `commercial` only weights whose licence is known to allow commercial use."""
    return BackboneList(tuple(rows(commercial=commercial)))


def get_backbone(name: str, folder: Path | None = None, *, quiet: bool = False) -> Fetched:
    """Fetch the weights of a backbone, and fill `folder` with them if one is given.

    Raises:
        MissingWeights: the network is off or does not answer.
        InvalidInput: there is no such name, or nothing to fetch for it.
    """
    from fewsight.backbones.loading import fetch

    with quieted(quiet):
        return Fetched(name, fetch(name, folder))
