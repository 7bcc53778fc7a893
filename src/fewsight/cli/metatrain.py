"""`fewsight metatrain DATA --out RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("metatrain")(metatrain)


def metatrain(
    data: Annotated[Path, typer.Argument(help="Labelled photos of many classes: class folders or a CSV.")],
    out: shared.Out,
    recipe: shared.RecipeName = None,
    override: shared.Override = None,
    head: Annotated[str | None, typer.Option("--head", help="In place of the recipe's head.")] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="In place of the recipe's backbone.")
    ] = None,
    workers: shared.Workers = None,
    seed: shared.Seed = 0,
    resume: shared.Resume = False,
    force: shared.Force = False,
    quiet: shared.Quiet = False,
    json: shared.Json = False,
) -> None:
    """Train a head, and its backbone, on many small tasks drawn from labelled photos.

    Example: fewsight metatrain OMNIGLOT --recipe omniglot_prototypes --out run
    """
    from fewsight.workflows.metatrain import metatrain as run

    result = run(
        data,
        out,
        recipe=recipe,
        overrides=tuple(override or ()),
        head=head,
        backbone=backbone,
        workers=workers,
        seed=seed,
        resume=resume,
        force=force,
        quiet=quiet or json,
    )
    finish(result.summary(), result.sentences(), quiet=quiet, as_json=json)
