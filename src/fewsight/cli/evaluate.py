"""`fewsight evaluate DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fewsight.cli import options as shared
from fewsight.cli.printing import finish
from fewsight.names import choices

__all__ = ["register"]

Supports = Literal["labels", "masks"]
EpisodeTask = Literal["fs-cs", "fs-s", "fs-c"]
Void = Literal["strict", "published"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("evaluate")(evaluate)


def evaluate(
    data: Annotated[
        Path, typer.Argument(help="Labelled photos: class folders or a CSV, or what embed made of them.")
    ],
    protocol: Annotated[
        str, typer.Option("--protocol", help=f"One of: {', '.join(choices('protocols'))}.")
    ] = "episodes",
    backbone: shared.BackboneName = "auto",
    head: shared.HeadName = "prototypes",
    against: Annotated[
        str | None,
        typer.Option("--against", help="A backbone, a head or BACKBONE:HEAD: compared pair by pair."),
    ] = None,
    way: Annotated[
        int | None, typer.Option("--way", min=1, help="Classes of an episode: 5; 1 and 2 with masks.")
    ] = None,
    shot: Annotated[
        list[int] | None, typer.Option("--shot", min=1, help="Supports a class; may be repeated.")
    ] = None,
    query: Annotated[int, typer.Option("--query", min=1, help="Queries a class.")] = 15,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="How many episodes.")] = 600,
    save_episodes: Annotated[
        Path | None,
        typer.Option("--save-episodes", help="Keep the episodes in this .npz, for others to score."),
    ] = None,
    load_episodes: Annotated[
        Path | None,
        typer.Option("--load-episodes", help="Score the episodes of such a file, on the same data."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split", help="Only photos of this split, or the classes of a published one: `cifar_fs:test`."
        ),
    ] = None,
    group_by: shared.GroupBy = None,
    image_size: shared.ImageSize = None,
    batch_size: shared.BatchSize = None,
    workers: shared.Workers = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    seed: shared.Seed = 0,
    class_level: shared.ClassLevel = "top",
    skip_empty: shared.SkipEmpty = False,
    fold: Annotated[
        int | None, typer.Option("--fold", min=0, help="Few-shot segmentation: one fold of the classes.")
    ] = None,
    supports: Annotated[
        Supports, typer.Option("--supports", help="Few-shot segmentation: what heads see of supports.")
    ] = "labels",
    episode_task: Annotated[
        EpisodeTask,
        typer.Option("--episode-task", help="What and where (fs-cs), where (fs-s) or what alone (fs-c)."),
    ] = "fs-cs",
    void: Annotated[
        Void, typer.Option("--void", help="Void pixels of masks: left out, or background as published.")
    ] = "strict",
    quiet: shared.Quiet = False,
    json: shared.Json = False,
) -> None:
    """Judge a backbone and a head on labelled photos, with intervals.

    Besides episodes: low-shot (1, 2 and 5 photos a class, 1 and 10 %), knn, multi-label and segmentation judge the
    backbone alone, on the splits train and test of the data or on halves of it. few-shot-segmentation (any folder with
    masks), pascal-5i, coco-20i and fss-1000 judge a dense head: --head correspondence, cst, or a trained head's folder.

    meta-dataset scores the sources of Meta-Dataset that lie in DATA, beside the published rows.

    Example: fewsight evaluate photos/ --way 5 --shot 1 --shot 5 --against logistic
    """
    from fewsight.workflows.evaluate import evaluate as run

    result = run(
        data,
        protocol=protocol,
        backbone=backbone,
        head=head,
        against=against,
        way=way,
        shots=tuple(shot or (1, 5)),
        query=query,
        episodes=episodes,
        split=split,
        group_by=group_by,
        image_size=image_size,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision,
        seed=seed,
        class_level=class_level,
        skip_empty=skip_empty,
        save_episodes=save_episodes,
        load_episodes=load_episodes,
        fold=fold,
        supports=supports,
        episode_task=episode_task,
        void=void,
        quiet=quiet or json,
    )
    finish(result.summary(), result.sentences(), quiet=quiet, as_json=json)
