"""Options that mean the same in every verb."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = [
    "BackboneName",
    "BatchSize",
    "ClassLevel",
    "Device",
    "Devices",
    "Force",
    "GroupBy",
    "HeadName",
    "ImageSize",
    "Json",
    "Out",
    "Override",
    "Precision",
    "Quiet",
    "RecipeName",
    "Resume",
    "Seed",
    "SkipEmpty",
    "Strict",
    "Tensorboard",
    "Workers",
]

Out = Annotated[
    Path, typer.Option("--out", help="Folder for the results; never overwritten without --resume or --force.")
]
BackboneName = Annotated[
    str,
    typer.Option(
        "--backbone", help="`auto`, a name of `fewsight backbones`, a timm name, or a file of weights."
    ),
]
HeadName = Annotated[
    str, typer.Option("--head", help="prototypes, neighbours, matching, logistic or crosstransformer.")
]
ImageSize = Annotated[
    int | None, typer.Option("--image-size", min=16, help="Side of the network's input in pixels.")
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Photos encoded at once.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Processes or threads that read photos.")
]
Device = Annotated[str, typer.Option("--device", help="`auto`, `cpu`, `cuda`, `cuda:1`, `mps`.")]
Devices = Annotated[
    int, typer.Option("--devices", min=1, help="Processes on this machine that train together; GPUs, if any.")
]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Write TensorBoard's event files too, into --out.")
]
Precision = Annotated[str, typer.Option("--precision", help="`auto`, `fp32`, `fp16` or `bf16`.")]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="A packaged recipe, or a YAML file.")]
Override = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE: one setting of the recipe; may be repeated.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Everything random is a function of it.")]
GroupBy = Annotated[
    str | None,
    typer.Option(
        "--group-by", help="`folder`, `burst` or a column of the CSV: one group never stands on both sides."
    ),
]
ClassLevel = Annotated[
    Literal["top", "leaf"],
    typer.Option("--class-level", help="`top`: the top folder is the class; `leaf`: the deepest one is."),
]
SkipEmpty = Annotated[bool, typer.Option("--skip-empty", help="Leave class folders without photos out.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first photo that cannot be read.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the run in --out.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
