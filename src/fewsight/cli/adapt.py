"""`fewsight adapt DATA --out RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish, finish_training

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("adapt")(adapt)


def adapt(
    data: Annotated[
        Path, typer.Argument(help="Labelled photos: class folders, a CSV, or an official data set.")
    ],
    out: shared.Out,
    preset: Annotated[
        Literal["lowshot", "published"],
        typer.Option("--preset", help="`lowshot`, or what the authors of LaCViT ran."),
    ] = "lowshot",
    recipe: shared.RecipeName = None,
    override: shared.Override = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="lacvit, joint, prototype_tuning, lp_ft, full, lora or layer_norm, in place of the recipe's.",
        ),
    ] = None,
    backbone: shared.BackboneName = "auto",
    image_size: shared.ImageSize = None,
    keep: Annotated[
        Literal["judged", "adapted"],
        typer.Option(
            "--keep", help="`judged`: the adapted backbone if it is shown to be better; `adapted`: always."
        ),
    ] = "judged",
    compare: Annotated[
        bool, typer.Option("--compare", help="All methods side by side with the same budget, as a table.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="With --compare: this method; may be repeated.")
    ] = None,
    shot: Annotated[
        list[int] | None,
        typer.Option("--shot", min=1, help="With --compare: so many photos a class; may be repeated."),
    ] = None,
    draws: Annotated[
        int, typer.Option("--draws", min=1, help="With --compare: draws of the labelled photos, and seeds.")
    ] = 3,
    most_judged: Annotated[
        int | None,
        typer.Option("--most-judged", min=1, help="With --compare: judge by at most so many photos."),
    ] = None,
    group_by: shared.GroupBy = None,
    class_level: shared.ClassLevel = "top",
    skip_empty: shared.SkipEmpty = False,
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
    """Make a backbone better with labelled photos, and say whether it is.

    Photos that were not trained on judge it: `better`, `worse`, `no difference shown`, or `not judged`.

    Example: fewsight adapt PHOTOS --out run
    """
    common: dict[str, Any] = {
        "preset": preset,
        "recipe": recipe,
        "overrides": tuple(override or ()),
        "backbone": backbone,
        "image_size": image_size,
        "group_by": group_by,
        "class_level": class_level,
        "skip_empty": skip_empty,
        "workers": workers,
        "device": device,
        "seed": seed,
        "resume": resume,
        "force": force,
        "quiet": quiet or json,
    }
    if compare:
        from fewsight.workflows.adapt_compare import compare_methods

        table = compare_methods(
            data, out, methods=only or (), shots=shot or (), draws=draws, most_judged=most_judged, **common
        )
        finish(table.summary(), table.sentences(), quiet=quiet, as_json=json)
        return
    from fewsight.workflows.adapt import adapt as run

    result = run(data, out, method=method, keep=keep, strict=strict, devices=devices, **common)
    finish_training(result, quiet=quiet, as_json=json)
