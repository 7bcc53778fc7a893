"""`fewsight cache`."""

from __future__ import annotations

from typing import Annotated

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("cache")(cache)


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete the stored features.")] = False,
    quiet: shared.Quiet = False,
    json: shared.Json = False,
) -> None:
    """Show what fewsight keeps on disk, or clear it. Downloaded weights are left alone."""
    from fewsight.workflows.cache import cache_usage, clear_cache

    result = clear_cache() if clear else cache_usage()
    finish(result.summary(), result.sentences(), quiet=quiet, as_json=json)
