"""`fewsight geometry MODEL DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("geometry")(geometry)


def geometry(
    model: Annotated[
        str,
        typer.Argument(
            help="A model folder, a run that holds one, or a backbone; left out: --backbone is measured."
        ),
    ],
    data: Annotated[Path | None, typer.Argument(help="Labelled photos: class folders or a CSV.")] = None,
    backbone: shared.BackboneName = "auto",
    against: Annotated[
        str | None,
        typer.Option(
            "--against", help="Another model or backbone, the state before: measured on the same photos."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for geometry.json and a page of pictures.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Only photos of this split.")] = None,
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
    """Say what shape a backbone's feature space has on labelled photos: cosines, spectrum, how classes lie.

    Each split of the data is also measured by itself; of a model made by `adapt` the classes trained on and the others,
    and the space behind its projector.

    Example: fewsight geometry run/model photos/ --against fewsight-bundled --out geometry
    """
    from fewsight.workflows.geometry import geometry as run

    result = run(
        model,
        data,
        backbone=backbone,
        against=against,
        out=out,
        split=split,
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
