"""`fewsight doctor DATA [QUERIES]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("doctor")(doctor)


def doctor(
    data: Annotated[Path, typer.Argument(help="The labelled photos: class folders or a CSV.")],
    queries: Annotated[Path | None, typer.Argument(help="The photos to label, if they are at hand.")] = None,
    backbone: shared.BackboneName = "auto",
    head: shared.HeadName = "prototypes",
    image_size: shared.ImageSize = None,
    workers: shared.Workers = None,
    group_by: shared.GroupBy = None,
    class_level: shared.ClassLevel = "top",
    quiet: shared.Quiet = False,
    json: shared.Json = False,
) -> None:
    """Say what is in a folder, what is wrong with it, how good answers will be, and what to do next.

    Example: fewsight doctor labelled/ pile/
    """
    from fewsight.workflows.doctor import doctor as run

    result = run(
        data,
        queries,
        backbone=backbone,
        head=head,
        image_size=image_size,
        workers=workers,
        group_by=group_by,
        class_level=class_level,
        quiet=quiet or json,
    )
    finish(result.summary(), result.sentences(), quiet=quiet, as_json=json)
