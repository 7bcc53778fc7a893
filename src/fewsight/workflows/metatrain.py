"""`fewsight metatrain`: a head, and its backbone, from many small tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy import int64
from numpy.typing import NDArray

from fewsight.data.class_splits import held_out_split, split_class_names, split_classes
from fewsight.data.collection import Collection
from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.data.store import PixelStore
from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Interval, mean_interval
from fewsight.objectives.episodic import Episodic
from fewsight.objectives.objective import Objective
from fewsight.training.best import BestWeights
from fewsight.training.episode_source import EpisodeSource, rotated_classes
from fewsight.training.loop import TrainingResult, train
from fewsight.training.settings import TrainingSettings

__all__ = ["EpisodeSettings", "MetatrainRecipe", "episode_accuracy", "train_episodes"]


@dataclass(frozen=True)
class EpisodeSettings:
    """Shape of an episode: `way` classes, `shot` supports and `query` queries of each."""

    way: int = 5
    shot: int = 1
    query: int = 15


@dataclass(frozen=True)
class MetatrainRecipe:
    """Everything that decides a run of `metatrain`.

    Attributes:
        backbone: a network of fewsight (`conv4`, `resnet12`, ...) or a name that `load_backbone` takes.
        head, head_settings: a head and the arguments of its constructor.
        image_size: side of the input in pixels; None = the backbone's own.
        frozen: train the head alone.
        rotations: photos turned by 90, 180 and 270 degrees are further classes.
        class_split: a packaged list of classes or a JSON file; None = the data's own splits, or held-out classes.
        held_out: share of the classes for validation where no split is known.
        episodes: of training.
        validation: episodes of held-out classes; `validation_episodes` of them, every `validation_every` steps.
        training: optimiser and schedules.
    """

    backbone: str = "conv4"
    head: str = "prototypes"
    head_settings: dict[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    frozen: bool = False
    rotations: bool = False
    class_split: str | None = None
    held_out: float = 0.2
    episodes: EpisodeSettings = field(default_factory=lambda: EpisodeSettings(5, 1, 15))
    validation: EpisodeSettings = field(default_factory=EpisodeSettings)
    validation_episodes: int = 100
    validation_every: int = 500
    training: TrainingSettings = field(default_factory=lambda: TrainingSettings(steps=2000))


def classes_of(collection: Collection, recipe: MetatrainRecipe, seed: int) -> dict[str, list[int]]:
    """Class ids for training and validation (and test, where the split names it)."""
    if recipe.class_split is not None:
        return split_classes(collection, split_class_names(recipe.class_split))
    if not 0 < recipe.held_out < 1:
        raise InvalidInput(f"held_out is {recipe.held_out}; expected a share in (0, 1).")
    return held_out_split(len(collection.classes), recipe.held_out, seed)


def episodes_of(
    collection: Collection,
    classes: list[int],
    shape: EpisodeSettings,
    *,
    rotations: bool,
    seed: int,
    stream: str,
) -> FixedEpisodes:
    """Episodes over some classes of a collection."""
    by_class = collection.by_class()
    rows: list[NDArray[int64]] = [by_class[number] for number in classes]
    if rotations:
        rows = rotated_classes(rows, len(collection))
    return FixedEpisodes(rows, shape.way, shape.shot, shape.query, seed=seed, stream=stream)


@torch.no_grad()
def episode_accuracy(objective: Objective, source: EpisodeSource, count: int) -> Interval:
    """Mean accuracy over the episodes 0 .. count - 1, with its interval over episodes."""
    objective.eval()
    values = []
    for number in range(count):
        objective(source(number))
        values.append(float(objective.watched()["accuracy"]))
    objective.train()
    return mean_interval(values)


def train_episodes(
    objective: Episodic,
    collection: Collection,
    store: PixelStore,
    recipe: MetatrainRecipe,
    folder: Path,
    seed: int,
) -> TrainingResult:
    """Train on episodes of the training classes; the weights that are best on validation classes are kept."""
    transform = objective.encoder.transform
    classes = classes_of(collection, recipe, seed)
    training = episodes_of(
        collection,
        classes["train"],
        recipe.episodes,
        rotations=recipe.rotations,
        seed=seed,
        stream="training episode",
    )
    validation = episodes_of(
        collection,
        classes["val"],
        recipe.validation,
        rotations=recipe.rotations,
        seed=seed,
        stream="validation episode",
    )
    best = BestWeights(folder)
    held_out = EpisodeSource(store, validation, transform)

    def probe(trained: Objective, step: int) -> Mapping[str, float]:
        accuracy = episode_accuracy(trained, held_out, recipe.validation_episodes)
        best.consider(trained, accuracy.mean, step)
        return {"validation": accuracy.mean, "validation_low": accuracy.low, "validation_high": accuracy.high}

    result = train(
        objective,
        EpisodeSource(store, training, transform),
        recipe.training,
        folder,
        seed=seed,
        probe=probe,
        probe_every=recipe.validation_every,
    )
    if result.finished:
        best.restore(objective)
    return result
