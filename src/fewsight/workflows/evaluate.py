"""`fewsight evaluate`: how good a backbone and a head are on labelled photos, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fewsight.names import resolve
from fewsight.progress import quieted
from fewsight.workflows.evaluation_results import Evaluation, Result
from fewsight.workflows.evaluation_task import EvaluationTask

__all__ = ["Evaluation", "Result", "evaluate"]


def evaluate(
    data: str | Path,
    *,
    protocol: str = "episodes",
    backbone: str = "auto",
    head: str = "prototypes",
    against: str | None = None,
    way: int | None = None,
    shots: Sequence[int] = (1, 5),
    query: int = 15,
    episodes: int = 600,
    split: str | None = None,
    group_by: str | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    class_level: Literal["top", "leaf"] = "top",
    skip_empty: bool = False,
    save_episodes: str | Path | None = None,
    load_episodes: str | Path | None = None,
    fold: int | None = None,
    supports: Literal["labels", "masks"] = "labels",
    episode_task: Literal["fs-cs", "fs-s", "fs-c"] = "fs-cs",
    void: Literal["strict", "published"] = "strict",
    quiet: bool = False,
) -> Evaluation:
    """Judge a backbone and head on labelled photos.

    Args:
        data: class folders or a CSV; or a folder of `fewsight embed` made from such (not for `segmentation`), whose
            own backbone is then judged.
        protocol: a name of the table of protocols: `episodes`; or `low-shot` (a few photos a class, or 1 and 10 % of
            them, to learn from), `knn`, and `multi-label` (average precision and F1), `segmentation` (a linear layer
            on patch tokens, mean IoU): these learn from the split `train` of the data and judge `test`, or take halves
            where there are no splits, with classifiers of their own on frozen features.
        backbone, head: what is judged; the head in episodes only.
        against: another backbone, another head, or `BACKBONE:HEAD`: compared on the same episodes (draws, photos).
        way, shots, query, episodes: of the episodes; fewer where the data has fewer. Without `way` 5, or 1 and 2 in
            few-shot segmentation.
        split: only photos of this split, or classes of a part of a published class split (`cifar_fs:test`).
        save_episodes: a file to keep the episodes in, so that others can score the same ones.
        load_episodes: such a file: its episodes in place of `way`, `shots`, `query`, `episodes` and `seed`.
        group_by: a group never stands among supports and queries of one episode, or on both sides of a split.
        fold, supports, episode_task, void: of few-shot segmentation: one fold of the classes; whether heads see the
            supports' masks; what and where (`fs-cs`), where alone (`fs-s`), what alone (`fs-c`); whether void pixels
            are left out or count as background, as CST published.

    Raises:
        InvalidInput: a name is unknown, or the data does not allow the protocol; the message says what is missing.
    """
    run = resolve("protocols", protocol)
    task = EvaluationTask(
        source=Path(data),
        protocol=protocol,
        backbone=backbone,
        head=head,
        against=against,
        way=way,
        shots=tuple(shots),
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
        save_episodes=None if save_episodes is None else Path(save_episodes),
        load_episodes=None if load_episodes is None else Path(load_episodes),
        fold=fold,
        supports=supports,
        episode_task=episode_task,
        void=void,
    )
    with quieted(quiet):
        found: Evaluation = run(task)
    return found
