"""`fewsight study PHOTOS --out RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("study")(study)


def study(
    data: Annotated[Path, typer.Argument(help="Photos to pretrain on; labels are not used.")],
    out: shared.Out,
    recipe: Annotated[
        str, typer.Option("--recipe", help="A packaged study, or a YAML file.")
    ] = "study_small",
    override: shared.Override = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            "--judge",
            help="PROTOCOL=DATA or PROTOCOL=DATA:SPLIT, with protocols of `evaluate`; may be repeated.",
        ),
    ] = None,
    episodes: Annotated[int, typer.Option("--episodes", min=2, help="Where the protocol has any.")] = 600,
    workers: shared.Workers = None,
    device: shared.Device = "auto",
    resume: shared.Resume = False,
    force: shared.Force = False,
    quiet: shared.Quiet = False,
    json: shared.Json = False,
) -> None:
    """Pretrain by every method of a grid on the same photos, judge all alike, and say what differs.

    Example: fewsight study photos/ --out study --judge episodes=labelled/ --judge segmentation=streets/
    """
    from fewsight.errors import InvalidInput
    from fewsight.workflows.study import study as run

    pairs = []
    for text in judge or ():
        protocol, separator, source = text.partition("=")
        if not separator or not source:
            raise InvalidInput(
                f"--judge {text!r}: expected PROTOCOL=DATA, for example --judge episodes=labelled/."
            )
        pairs.append((protocol, source))
    result = run(
        data,
        out,
        recipe=recipe,
        overrides=tuple(override or ()),
        judge=pairs,
        episodes=episodes,
        workers=workers,
        device=device,
        resume=resume,
        force=force,
        quiet=quiet or json,
    )
    finish(result.summary(), result.sentences(), quiet=quiet, as_json=json)
