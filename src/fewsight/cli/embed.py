"""`fewsight embed PHOTOS --out RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("embed")(embed)


def embed(
    photos: Annotated[Path, typer.Argument(help="The photos: any folder, CSV or single photo.")],
    out: shared.Out,
    backbone: shared.BackboneName = "auto",
    image_size: shared.ImageSize = None,
    shard_size: Annotated[int, typer.Option("--shard-size", min=1, help="Photos in one file.")] = 1024,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            help="i/n, from 0/n to n-1/n: make one part of n; all may share --out. Set by torchrun.",
        ),
    ] = None,
    batch_size: shared.BatchSize = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Processor threads of the network; recorded.")
    ] = None,
    workers: shared.Workers = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    strict: shared.Strict = False,
    resume: shared.Resume = False,
    force: shared.Force = False,
    quiet: shared.Quiet = False,
    json: shared.Json = False,
) -> None:
    """Encode PHOTOS into files of features, one row a photo.

    Writes features-00000.safetensors, ... and index.csv (which row is which photo) into --out. A killed run goes on
    with --resume and gives the same bytes.

    Example: fewsight embed photos/ --out features --resume
    """
    from fewsight.workflows.embed import embed as run

    result = run(
        photos,
        out,
        backbone=backbone,
        image_size=image_size,
        shard_size=shard_size,
        shard=shard,
        batch_size=batch_size,
        threads=threads,
        workers=workers,
        device=device,
        precision=precision,
        strict=strict,
        resume=resume,
        force=force,
        quiet=quiet or json,
    )
    finish(result.summary(), result.sentences(), quiet=quiet, as_json=json)
