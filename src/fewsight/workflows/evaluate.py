"""`fewsight evaluate`: how good a backbone and a head are on labelled photos, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from fewsight.backbones.encode import Encoder
from fewsight.backbones.loading import load_backbone
from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Comparison, Interval, mean_interval
from fewsight.heads.head import Head
from fewsight.heads.vectors import VectorHead
from fewsight.names import choices, resolve
from fewsight.progress import quieted, say
from fewsight.protocols.episodes import EpisodeResult, compare_results, evaluate_episodes
from fewsight.workflows.encoded_data import EncodedData, encode_collection, encode_data
from fewsight.workflows.labelled_photos import groups_of

__all__ = ["Evaluation", "Result", "evaluate"]


@dataclass(frozen=True)
class _Model:
    """A backbone with a head."""

    name: str
    head: Head
    encoder: Encoder


def evaluate(
    data: str | Path,
    *,
    protocol: str = "episodes",
    backbone: str = "auto",
    head: str = "prototypes",
    against: str | None = None,
    way: int = 5,
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
    class_level: str = "top",
    skip_empty: bool = False,
    quiet: bool = False,
) -> Evaluation:
    """Judge a backbone and head on labelled photos.

    Args:
        data: class folders or a CSV.
        protocol: `episodes`.
        backbone, head: what is judged.
        against: another backbone, another head, or `BACKBONE:HEAD`: compared on the same episodes.
        way, shots, query, episodes: of the episodes; fewer where the data has fewer.
        split: only photos of this split.
        group_by: a group never stands among supports and queries of one episode.

    Raises:
        InvalidInput: the data does not allow the protocol; the message says what is missing.
    """
    if protocol != "episodes":
        raise InvalidInput(f"protocol {protocol!r} is unknown; choose episodes.")
    with quieted(quiet):
        model = _model(backbone, head, image_size, precision, device, batch_size)
        encoded = encode_data(
            Path(data),
            model.encoder,
            split=split,
            class_level=class_level,
            skip_empty=skip_empty,
            workers=workers,
        )
        for remark in encoded.remarks:
            say(remark)
        rival = None if against is None else _rival(against, model, image_size, precision, device, batch_size)
        task = _Task(Path(data).name or str(data), way, tuple(shots), query, episodes, seed, group_by)
        return _episodes(task, model, encoded, rival, workers)


def _model(
    backbone: str, head: str, image_size: int | None, precision: str, device: str, batch: int | None
) -> _Model:
    loaded = load_backbone(backbone, image_size=image_size)
    made = resolve("heads", head)
    built = made(pooling=loaded.pooling) if issubclass(made, VectorHead) else made()
    encoder = Encoder(
        loaded,
        built.request,
        precision=precision,
        device=device,
        vectors=isinstance(built, VectorHead),
        batch_size=batch,
    )
    return _Model(f"{loaded.name} with {head}", built, encoder)


def _rival(
    against: str, model: _Model, image_size: int | None, precision: str, device: str, batch: int | None
) -> _Model:
    """The other model: a head of the same backbone, another backbone with the same head, or BACKBONE:HEAD."""
    heads = choices("heads")
    own_backbone, own_head = model.name.split(" with ")
    before, colon, after = against.rpartition(":")
    if against in heads:
        backbone, head = own_backbone, against
    elif colon and after in heads:
        backbone, head = before, after
    else:
        backbone, head = against, own_head
    return _model(backbone, head, image_size, precision, device, batch)


@dataclass(frozen=True)
class _Task:
    """The shape of the episodes."""

    dataset: str
    way: int
    shots: tuple[int, ...]
    query: int
    episodes: int
    seed: int
    group_by: str | None


def _episodes(
    task: _Task, model: _Model, encoded: EncodedData, rival: _Model | None, workers: int | None
) -> Evaluation:
    by_class = list(encoded.collection.by_class())
    groups = groups_of(encoded.collection, task.group_by)
    codes = None if groups is None else numpy.unique(groups, return_inverse=True)[1]
    other = None if rival is None else encode_collection(encoded.collection, rival.encoder, workers=workers)
    if other is not None and len(other.collection) != len(encoded.collection):
        raise InvalidInput(
            "the two backbones do not read the same photos; a paired comparison is not possible."
        )
    results: list[Result] = []
    comparisons, remarks, found = {}, list(encoded.remarks), None
    way = _possible_way(task, by_class, remarks)
    for shot in task.shots:
        try:
            episodes = FixedEpisodes(by_class, way, shot, task.query, seed=task.seed)
        except InvalidInput as error:
            remarks.append(f"{shot}-shot is left out: {error}")
            continue
        found = evaluate_episodes(
            model.head, encoded.features, by_class, episodes, task.episodes, groups=codes
        )
        results.append(Result(task.dataset, way, shot, "accuracy", found.accuracy))
        if rival is not None and other is not None:
            second = evaluate_episodes(
                rival.head, other.features, by_class, episodes, task.episodes, groups=codes
            )
            results.append(Result(task.dataset, way, shot, f"accuracy of {rival.name}", second.accuracy))
            comparisons[f"{way}-way {shot}-shot"] = compare_results(found, second, (model.name, rival.name))
    if found is None:
        raise InvalidInput(f"no episode is possible: {remarks[-1]}")
    recalls = dict(zip(encoded.collection.classes, found.recalls().tolist(), strict=True))
    results.append(_balanced(task, way, found))
    return Evaluation("episodes", task.episodes, tuple(results), comparisons, recalls, tuple(remarks))


def _possible_way(task: _Task, by_class: list[NDArray[numpy.int64]], remarks: list[str]) -> int:
    able = sum(len(rows) > min(task.shots) for rows in by_class)
    if able >= task.way:
        return task.way
    if able < 2:
        raise InvalidInput(
            f"{task.dataset} has {able} classes with at least {min(task.shots) + 1} photos; episodes need two. "
            "Give more photos a class."
        )
    remarks.append(f"{able} classes have enough photos: {able}-way episodes in place of {task.way}-way.")
    return able


def _balanced(task: _Task, way: int, found: EpisodeResult) -> Result:
    recalls = found.recalls()
    drawn = recalls[~numpy.isnan(recalls)]
    return Result(task.dataset, way, task.shots[-1], "balanced accuracy over classes", mean_interval(drawn))
