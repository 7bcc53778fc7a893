"""`fewsight evaluate`: how good a backbone and a head are on labelled photos, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
from fewsight.workflows.embedded_data import backbone_of, embedded_data
from fewsight.workflows.encoded_data import EncodedData, encode_collection, encode_data
from fewsight.workflows.evaluation_results import Evaluation, Result
from fewsight.workflows.feature_shards import is_embedding
from fewsight.workflows.labelled_photos import groups_of
from fewsight.workflows.split_protocols import SPLIT_PROTOCOLS, check_rival, evaluate_splits
from fewsight.workflows.split_segmentation import evaluate_segmentation, whole_photo_encoder

__all__ = ["PROTOCOLS", "Evaluation", "Result", "evaluate"]

PROTOCOLS = ("episodes", *SPLIT_PROTOCOLS, "segmentation")


@dataclass(frozen=True)
class _Model:
    """A backbone with a head; `encoder` is None where the features are at hand."""

    backbone: str
    head_name: str
    head: Head
    encoder: Encoder | None

    @property
    def name(self) -> str:
        return f"{self.backbone} with {self.head_name}"


class _Wanted(NamedTuple):
    """A backbone and head as asked for."""

    backbone: str
    head: str
    image_size: int | None
    precision: str
    device: str
    batch_size: int | None


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
        data: class folders or a CSV; or a folder of `fewsight embed` made from such (not for `segmentation`), whose
            own backbone is then judged.
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
    dataset, folder = Path(data).name or str(data), Path(data)
    wanted = _Wanted(backbone, head, image_size, precision, device, batch_size)
    reading: dict[str, Any] = {
        "split": split,
        "class_level": class_level,
        "skip_empty": skip_empty,
        "workers": workers,
    }
    with quieted(quiet):
        if protocol == "segmentation":
            return _segmentation(folder, dataset, wanted, group_by=group_by, seed=seed, **reading)
        model, encoded = _model_and_features(folder, wanted, **reading)
        for remark in encoded.remarks:
            say(remark)
        rival = None if against is None else _rival(against, model, folder, wanted)
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


def _model_and_features(
    data: Path,
    wanted: _Wanted,
    *,
    workers: int | None,
    **reading: Any,
) -> tuple[_Model, EncodedData]:
    """What is judged, and the features of DATA: read from a folder of `fewsight embed`, else encoded."""
    if not is_embedding(data):
        made = _model(wanted)
        assert made.encoder is not None
        return made, encode_data(data, made.encoder, workers=workers, **reading)
    if wanted.backbone not in ("auto", backbone_of(data)):
        raise InvalidInput(
            f"{data} holds features of {backbone_of(data)}: leave --backbone {wanted.backbone} out, or give the photos."
        )
    return _embedded_model(data, wanted.head), embedded_data(data, **reading)


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
    names = (model.backbone, "" if rival is None else rival.backbone)
    return evaluate_splits(protocol, dataset, encoded, names, other, group_by=group_by, seed=seed)


def _same_photos(encoded: EncodedData, rival: _Model, workers: int | None) -> EncodedData:
    if rival.encoder is None:
        return encoded
    other = encode_collection(encoded.collection, rival.encoder, workers=workers)
    if len(other.collection) != len(encoded.collection):
        raise InvalidInput(
            "the two backbones do not read the same photos; a paired comparison is not possible."
        )
    return other


def _segmentation(folder: Path, dataset: str, wanted: _Wanted, **options: Any) -> Evaluation:
    if is_embedding(folder):
        raise InvalidInput(
            f"segmentation needs masks, and {folder} holds features: give the photos themselves."
        )
    encoder = whole_photo_encoder(
        wanted.backbone, wanted.image_size, wanted.precision, wanted.device, wanted.batch_size
    )
    return evaluate_segmentation(folder, encoder, dataset=dataset, **options)


def _model(wanted: _Wanted) -> _Model:
    loaded = load_backbone(wanted.backbone, image_size=wanted.image_size)
    made = resolve("heads", wanted.head)
    built = made(pooling=loaded.pooling) if issubclass(made, VectorHead) else made()
    encoder = Encoder(
        loaded,
        built.request,
        precision=wanted.precision,
        device=wanted.device,
        vectors=isinstance(built, VectorHead),
        batch_size=wanted.batch_size,
    )
    return _Model(loaded.name, wanted.head, built, encoder)


def _embedded_model(folder: Path, head: str) -> _Model:
    """A head on the vectors of a folder of `fewsight embed`."""
    made = resolve("heads", head)
    if not issubclass(made, VectorHead):
        raise InvalidInput(
            f"head {head} reads patch tokens, and {folder} holds one vector a photo: give the photos themselves."
        )
    return _Model(backbone_of(folder), head, made(), None)


def _rival(against: str, model: _Model, folder: Path, wanted: _Wanted) -> _Model:
    """The other model: a head of the same backbone, another backbone with the same head, or BACKBONE:HEAD."""
    heads = choices("heads")
    if against in heads and model.encoder is None:
        return _embedded_model(folder, against)
    before, colon, after = against.rpartition(":")
    if against in heads:
        return _model(wanted._replace(backbone=model.backbone, head=against))
    if colon and after in heads:
        return _model(wanted._replace(backbone=before, head=after))
    return _model(wanted._replace(backbone=against, head=model.head_name))


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
