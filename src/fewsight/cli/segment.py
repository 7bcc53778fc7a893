"""`fewsight segment SUPPORT QUERIES --out RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("segment")(segment)


def segment(
    support: Annotated[
        Path,
        typer.Argument(
            help="Labelled photos (class folders or a CSV, masks beside them if any), a model, or an earlier run."
        ),
    ],
    out: shared.Out,
    queries: Annotated[
        Path | None,
        typer.Argument(
            help="The photos to search: a folder, CSV or photo; leave it out to decide an earlier run anew."
        ),
    ] = None,
    backbone: shared.BackboneName = "auto",
    head: Annotated[
        str,
        typer.Option("--head", help="correspondence (no training), cst, or the folder of a trained head."),
    ] = "correspondence",
    false_alarms: Annotated[
        float | None,
        typer.Option(
            "--false-alarms", min=0.0, max=1.0, help="Call at most this share of absent classes present."
        ),
    ] = None,
    presence_threshold: Annotated[
        float | None,
        typer.Option("--presence-threshold", help="A class is present above this probability (0.5)."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="A pixel is a class's from this foreground probability on (0.5)."),
    ] = None,
    tiles: Annotated[
        int, typer.Option("--tiles", min=1, help="Also look at N x N overlapping parts: small objects.")
    ] = 1,
    image_size: shared.ImageSize = None,
    batch_size: shared.BatchSize = None,
    workers: shared.Workers = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    seed: shared.Seed = 0,
    class_level: shared.ClassLevel = "top",
    skip_empty: shared.SkipEmpty = False,
    strict: shared.Strict = False,
    resume: shared.Resume = False,
    force: shared.Force = False,
    quiet: shared.Quiet = False,
    json: shared.Json = False,
) -> None:
    """Say which classes are in the photos in QUERIES, and where, by the few labelled ones in SUPPORT.

    Writes photos.csv (one row a photo), masks/, overlays/, segments.json (COCO), areas.csv, report.html and model/.

    Thresholds can be changed afterwards, without the photos: fewsight segment run --threshold 0.6 --out run2

    Example: fewsight segment labelled/ pile/ --out run
    """
    from fewsight.workflows.segment import segment as run

    result = run(
        support,
        queries,
        out,
        backbone=backbone,
        head=head,
        image_size=image_size,
        false_alarms=false_alarms,
        presence_threshold=presence_threshold,
        threshold=threshold,
        tiles=tiles,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision,
        seed=seed,
        class_level=class_level,
        skip_empty=skip_empty,
        strict=strict,
        resume=resume,
        force=force,
        quiet=quiet or json,
    )
    finish(result.summary(), result.sentences(), quiet=quiet, as_json=json)
