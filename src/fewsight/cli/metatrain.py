"""`fewsight metatrain DATA --out RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish_training

__all__ = ["register"]

Supervision = Literal["image", "pixel", "mixed"]


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
    supervision: Annotated[
        Supervision | None,
        typer.Option(
            "--supervision", help="Of --head cst: image labels, masks (pixel), or some masks (mixed)."
        ),
    ] = None,
    workers: shared.Workers = None,
    device: shared.Device = "auto",
    devices: shared.Devices = 1,
    tensorboard: shared.Tensorboard = False,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Everything random is a function of it; 0 by default.")
    ] = None,
    resume: shared.Resume = False,
    force: shared.Force = False,
    quiet: shared.Quiet = False,
    json: shared.Json = False,
) -> None:
    """Train a head, and its backbone, on many small tasks drawn from labelled photos.

    --head cst trains what says where: fewsight metatrain PHOTOS --head cst --supervision image --out run

    Example: fewsight metatrain OMNIGLOT --recipe omniglot_prototypes --out run
    """
    from fewsight.workflows.metatrain import metatrain as run

    result = run(
        data,
        out,
        recipe=recipe,
        overrides=(*(override or ()), *(["training.tensorboard=true"] if tensorboard else [])),
        head=head,
        backbone=backbone,
        supervision=supervision,
        workers=workers,
        device=device,
        devices=devices,
        seed=seed,
        resume=resume,
        force=force,
        quiet=quiet or json,
    )
    finish_training(result, quiet=quiet, as_json=json)
