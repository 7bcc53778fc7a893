"""`fewsight predict SUPPORT QUERIES --out RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("predict")(predict)


def predict(
    support: Annotated[
        Path,
        typer.Argument(
            help="Labelled photos (class folders or a CSV), a model folder, a corrected predictions.csv, or a folder "
            "made by `embed`."
        ),
    ],
    queries: Annotated[
        Path, typer.Argument(help="The photos to label: any folder, CSV, single photo, or folder of `embed`.")
    ],
    out: shared.Out,
    backbone: shared.BackboneName = "auto",
    head: shared.HeadName = "prototypes",
    reject: Annotated[
        float | None,
        typer.Option(
            "--reject",
            min=0.0,
            max=1.0,
            help="Answer 'none of these', at this share of false alarms among photos that do belong to a class.",
        ),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(
            "--coverage",
            min=0.0,
            max=1.0,
            help="Also give the set of labels that holds the true one with this probability.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", help="CSV of the labels, where SUPPORT is a folder of `embed` without class folders."
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="CSV of the true labels (columns image, labels).")
    ] = None,
    sort_into: Annotated[
        Path | None, typer.Option("--sort-into", help="Link or copy the photos into folders by label.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", help="Further formats: label-studio, timelapse or parquet; may be repeated."),
    ] = None,
    image_size: shared.ImageSize = None,
    batch_size: shared.BatchSize = None,
    workers: shared.Workers = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    seed: shared.Seed = 0,
    group_by: shared.GroupBy = None,
    class_level: shared.ClassLevel = "top",
    skip_empty: shared.SkipEmpty = False,
    strict: shared.Strict = False,
    resume: shared.Resume = False,
    force: shared.Force = False,
    quiet: shared.Quiet = False,
    json: shared.Json = False,
) -> None:
    """Label the photos in QUERIES by the few labelled ones in SUPPORT.

    Writes predictions.csv (one row a photo), predictions.jsonl, report.html and model/ into --out.

    Example: fewsight predict labelled/ pile/ --out run --reject 0.05
    """
    from fewsight.workflows.predict import predict as run

    result = run(
        support,
        queries,
        out,
        backbone=backbone,
        head=head,
        reject=reject,
        coverage=coverage,
        labels=labels,
        truth=truth,
        sort_into=sort_into,
        also=also or (),
        image_size=image_size,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision,
        seed=seed,
        group_by=group_by,
        class_level=class_level,
        skip_empty=skip_empty,
        strict=strict,
        resume=resume,
        force=force,
        quiet=quiet or json,
    )
    finish(result.summary(), result.sentences(), quiet=quiet, as_json=json)
