"""`fewsight neighbours [MODEL] DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("neighbours")(neighbours)


def neighbours(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="A backbone: a name or a folder; may be left out.")
    ],
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="Labelled photos with splits, or the test classes."),
    ] = None,
    backbone: shared.BackboneName = "auto",
    train: Annotated[
        Path | None,
        typer.Option(
            "--train", help="Photos of the classes trained on, if DATA has no splits train and test."
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours of each query.")] = 5,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for neighbours.json and a page of pictures.")
    ] = None,
    image_size: shared.ImageSize = None,
    batch_size: shared.BatchSize = None,
    workers: shared.Workers = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    class_level: shared.ClassLevel = "top",
    skip_empty: shared.SkipEmpty = False,
    force: shared.Force = False,
    quiet: shared.Quiet = False,
    json: shared.Json = False,
) -> None:
    """Say how often photos of new classes lie nearest to classes that the network was trained on.

    DATA holds splits train and test of different classes; the nearest photos of each test photo are sought in both.

    Example: fewsight neighbours run/model new-classes/ --train old-classes/ --out neighbours
    """
    from fewsight.errors import InvalidInput
    from fewsight.workflows.neighbours import neighbours as run

    if data is None:  # one argument: the photos
        model, data = backbone, Path(model)
    elif backbone != "auto":
        raise InvalidInput(f"two backbones are named, {model} and --backbone {backbone}: leave one out.")
    result = run(
        data,
        backbone=model,
        train=train,
        k=k,
        out=out,
        image_size=image_size,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision,
        class_level=class_level,
        skip_empty=skip_empty,
        force=force,
        quiet=quiet or json,
    )
    finish(result.summary(), result.sentences(), quiet=quiet, as_json=json)
