"""How verbs end: sentences for people, or one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import typer

__all__ = ["finish", "finish_training"]


def finish(summary: Mapping[str, Any], sentences: Iterable[str], *, quiet: bool, as_json: bool) -> None:
    """Print `summary` as JSON, or else the sentences unless `quiet`."""
    if as_json:
        typer.echo(json.dumps(summary, ensure_ascii=False))
    elif not quiet:
        for sentence in sentences:
            typer.echo(sentence)


def finish_training(run: Any, *, quiet: bool, as_json: bool) -> None:
    """End a verb that trains, in one process or several: the first one prints.

    Args:
        run: what the verb gave, with `summary()`, `sentences()` and the loop's `result`.

    Raises:
        typer.Exit: code 130 where the training was interrupted.
    """
    from fewsight.workflows.training_run import is_first_process

    if is_first_process():
        finish(run.summary(), run.sentences(), quiet=quiet, as_json=as_json)
    if not run.result.finished:
        raise typer.Exit(130)
