"""How verbs end: sentences for people, or one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import typer

__all__ = ["finish"]


def finish(summary: Mapping[str, Any], sentences: Iterable[str], *, quiet: bool, as_json: bool) -> None:
    """Print `summary` as JSON, or else the sentences unless `quiet`."""
    if as_json:
        typer.echo(json.dumps(summary, ensure_ascii=False))
    elif not quiet:
        for sentence in sentences:
            typer.echo(sentence)
