"""`fewsight backbones`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("backbones")(backbones)


def backbones(
    get: Annotated[str | None, typer.Option("--get", help="Download the weights of one backbone.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="With --get: fill this folder, to carry to a machine without network."),
    ] = None,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="Only weights whose licence allows commercial use.")
    ] = False,
    quiet: shared.Quiet = False,
    json: shared.Json = False,
) -> None:
    """List backbones: name, size, input, licence, and whether the weights are on this machine.

    Example: fewsight backbones --get dinov2-s
    """
    from fewsight.workflows.backbones import get_backbone, list_backbones

    result = get_backbone(get, folder, quiet=quiet or json) if get else list_backbones(commercial=commercial)
    finish(result.summary(), result.sentences(), quiet=quiet, as_json=json)
