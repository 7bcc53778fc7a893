"""`fewsight pretrain PHOTOS --out RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish_training

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("pretrain")(pretrain)


def pretrain(
    data: Annotated[
        Path,
        typer.Argument(
            help="Photos, or tar shards ('photos-{000000..000099}.tar', or a folder of them); class folders are only "
            "used to judge the result."
        ),
    ],
    out: shared.Out,
    recipe: shared.RecipeName = None,
    override: shared.Override = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            help="simclr, moco_v3, dino, msn, swav, mae, simmim, gmml, ibot or masked_clustering.",
        ),
    ] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="What is trained further.")] = None,
    kind: Annotated[
        Literal["photos", "greyscale", "texture", "overhead"] | None,
        typer.Option("--kind", help="What the pictures are: decides what augmentation leaves alone."),
    ] = None,
    image_size: shared.ImageSize = None,
    insist: Annotated[
        bool,
        typer.Option(
            "--insist", help="Start from random weights on fewer photos than the evidence supports."
        ),
    ] = False,
    stop_on_collapse: Annotated[
        bool, typer.Option("--stop-on-collapse", help="End the run when its features collapse.")
    ] = False,
    group_by: shared.GroupBy = None,
    strict: shared.Strict = False,
    workers: shared.Workers = None,
    device: shared.Device = "auto",
    devices: shared.Devices = 1,
    seed: shared.Seed = 0,
    resume: shared.Resume = False,
    force: shared.Force = False,
    quiet: shared.Quiet = False,
    json: shared.Json = False,
) -> None:
    """Train a backbone further on photos without labels, and say whether it became better.

    Example: fewsight pretrain photos/ --out run
    """
    from fewsight.workflows.pretrain import pretrain as run

    result = run(
        data,
        out,
        recipe=recipe,
        overrides=tuple(override or ()),
        objective=objective,
        backbone=backbone,
        kind=kind,
        image_size=image_size,
        insist=insist,
        stop_on_collapse=stop_on_collapse,
        group_by=group_by,
        strict=strict,
        workers=workers,
        device=device,
        devices=devices,
        seed=seed,
        resume=resume,
        force=force,
        quiet=quiet or json,
    )
    finish_training(result, quiet=quiet, as_json=json)
