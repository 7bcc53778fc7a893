"""`fewsight demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the photos and the result.")] = Path(
        "fewsight-demo"
    ),
    seed: shared.Seed = 0,
    quiet: shared.Quiet = False,
    json: shared.Json = False,
) -> None:
    """Run the whole thing on bundled data, offline, in under a minute: handwritten digits, five photos a class."""
    from fewsight.workflows.demo import demo as run

    result = run(out, seed=seed, quiet=quiet or json)
    finish(result.summary(), result.sentences(), quiet=quiet, as_json=json)
