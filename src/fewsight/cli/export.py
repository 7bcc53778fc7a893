"""`fewsight export MODEL --onnx FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("export")(export)


def export(
    model: Annotated[
        str, typer.Argument(help="A model folder, a run that holds one, or a backbone by name or path.")
    ],
    onnx: Annotated[Path, typer.Option("--onnx", help="The file to write.")],
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            min=16,
            help="Side of the input in pixels; by default the model's. The bundled backbone takes any.",
        ),
    ] = None,
    pixels: Annotated[
        Literal["uint8", "float"],
        typer.Option(
            "--pixels",
            help="`uint8`: [N, H, W, 3], 0 to 255, as decoders give them; `float`: [N, 3, H, W], 0 to 1.",
        ),
    ] = "uint8",
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    quiet: shared.Quiet = False,
    json: shared.Json = False,
) -> None:
    """Write a model for other runtimes: from pixels to scores, calibrated probabilities and novelty, in one file.

    Classes, preprocessing, calibration, licences and provenance stand in the file.
    Needs `pip install 'fewsight[onnx]'`.

    Example: fewsight export run/model --onnx model.onnx
    """
    from fewsight.workflows.export import export as run

    result = run(model, onnx, image_size=image_size, pixels=pixels, force=force, quiet=quiet or json)
    finish(result.summary(), result.sentences(), quiet=quiet, as_json=json)
