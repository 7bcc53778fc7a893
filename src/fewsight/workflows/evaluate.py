"""`fewsight evaluate`: how good a backbone and a head are on labelled photos, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray

from fewsight.backbones.encode import Encoder
from fewsight.backbones.loading import load_backbone
from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import mean_interval
from fewsight.heads.head import Head
from fewsight.heads.vectors import VectorHead
from fewsight.names import choices, closest, resolve
from fewsight.progress import quieted, say
from fewsight.protocols.episodes import EpisodeResult, compare_results, evaluate_episodes
from fewsight.workflows.encoded_data import EncodedData, encode_collection, encode_data
from fewsight.workflows.evaluation_results import Evaluation, Result
from fewsight.workflows.labelled_photos import groups_of
from fewsight.workflows.split_protocols import SPLIT_PROTOCOLS, check_rival, evaluate_splits
from fewsight.workflows.split_segmentation import evaluate_segmentation, whole_photo_encoder

__all__ = ["PROTOCOLS", "Evaluation", "Result", "evaluate"]

PROTOCOLS = ("episodes", *SPLIT_PROTOCOLS, "segmentation")


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
        protocol: `episodes`; or `low-shot` (a few photos a class, or 1 and 10 % of them, to learn from), `knn`, and
            `multi-label` (average precision and F1), `segmentation` (a linear layer on patch tokens, mean IoU): these
            learn from the split `train` of the data and judge `test`, or take halves where there are no splits, with
            classifiers of their own on frozen features.
        backbone, head: what is judged; the head in episodes only.
        against: another backbone, another head, or `BACKBONE:HEAD`: compared on the same episodes (draws, photos).
        way, shots, query, episodes: of the episodes; fewer where the data has fewer.
        split: only photos of this split.
        group_by: a group never stands among supports and queries of one episode, or on both sides of a split.

    Raises:
        InvalidInput: a name is unknown, or the data does not allow the protocol; the message says what is missing.
    """
    _check(protocol, head, against)
    dataset = Path(data).name or str(data)
    with quieted(quiet):
        if protocol == "segmentation":
            return evaluate_segmentation(
                Path(data),
                whole_photo_encoder(backbone, image_size, precision, device, batch_size),
                dataset=dataset,
                split=split,
                group_by=group_by,
                class_level=class_level,
                skip_empty=skip_empty,
                workers=workers,
                seed=seed,
            )
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
        if protocol != "episodes":
            return _on_splits(protocol, dataset, model, encoded, rival, workers, group_by, seed)
        task = _Task(dataset, way, tuple(shots), query, episodes, seed, group_by)
        return _episodes(task, model, encoded, rival, workers)


def _check(protocol: str, head: str, against: str | None) -> None:
    """Options that do not go together."""
    if protocol not in PROTOCOLS:
        raise InvalidInput(f"protocol {protocol!r} is unknown. {closest(protocol, list(PROTOCOLS))}")
    if protocol == "episodes":
        return
    if head != "prototypes":
        raise InvalidInput(
            f"{protocol} judges the backbone with classifiers of its own: leave --head {head} out."
        )
    if against is not None:
        check_rival(protocol)
        if against.rpartition(":")[2] in choices("heads"):
            raise InvalidInput(
                f"{protocol} judges backbones: --against {against} names a head; name a backbone."
            )


def _on_splits(
    protocol: str,
    dataset: str,
    model: _Model,
    encoded: EncodedData,
    rival: _Model | None,
    workers: int | None,
    group_by: str | None,
    seed: int,
) -> Evaluation:
    """Frozen features of the one backbone, or of two, through a protocol of `SPLIT_PROTOCOLS`."""
    other = None if rival is None else _same_photos(encoded, rival, workers)
    first = model.encoder.backbone.name
    second = "" if rival is None else rival.encoder.backbone.name
    return evaluate_splits(protocol, dataset, encoded, (first, second), other, group_by=group_by, seed=seed)


def _same_photos(encoded: EncodedData, rival: _Model, workers: int | None) -> EncodedData:
    other = encode_collection(encoded.collection, rival.encoder, workers=workers)
    if len(other.collection) != len(encoded.collection):
        raise InvalidInput(
            "the two backbones do not read the same photos; a paired comparison is not possible."
        )
    return other


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
    other = None if rival is None else _same_photos(encoded, rival, workers)
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
