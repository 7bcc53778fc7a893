"""`fewsight metatrain`: a head, and its backbone, from many small tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from numpy import int64
from numpy.typing import NDArray

from fewsight import distributed
from fewsight.backbones.architectures import untrained_backbone
from fewsight.backbones.description import describe
from fewsight.backbones.loading import load_backbone
from fewsight.backbones.registry import find
from fewsight.data.class_splits import held_out_split, split_class_names, split_classes
from fewsight.data.collection import Collection
from fewsight.data.fingerprint import fingerprint
from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.data.imagenet_episodes import spanned_imagenet_classes
from fewsight.data.layouts import read_layout
from fewsight.data.store import PixelStore
from fewsight.data.variable_episodes import VariableEpisodes
from fewsight.devices import resolve_device
from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Interval, mean_interval
from fewsight.heads.vectors import VectorHead
from fewsight.launch import launch
from fewsight.model import SavedModel, write_model
from fewsight.names import resolve
from fewsight.objectives.episodic import EpisodeMemory, Episodic
from fewsight.objectives.objective import Objective
from fewsight.objectives.simclr_episodes import SimclrEpisodes
from fewsight.progress import say
from fewsight.seeding import stream_seed
from fewsight.training.best import BestWeights
from fewsight.training.episode_source import Episodes, EpisodeSource, rotated_classes
from fewsight.training.loop import TrainingResult, train
from fewsight.training.settings import HOUSEKEEPING, TrainingSettings
from fewsight.training.sharding import full_state
from fewsight.training.step import on_device
from fewsight.workflows.metatrain_dense import SMALL, DenseRun, Supervision, is_dense, metatrain_dense
from fewsight.workflows.recipes import as_values, read_recipe, recorded_options
from fewsight.workflows.run_record import RunRecord, record_run
from fewsight.workflows.training_run import stored_once, training_run

__all__ = [
    "EpisodeSettings",
    "MetatrainRecipe",
    "MetatrainRun",
    "episode_accuracy",
    "metatrain",
    "train_episodes",
]


@dataclass(frozen=True)
class EpisodeSettings:
    """Shape of an episode.

    Attributes:
        way, shot, query: classes, supports and queries of each; of the sampler `fixed`.
        sampler: `fixed`, or `meta_dataset`: 5 to 50 classes, unequal shots, at most 500 supports and 10 queries a
            class (Triantafillou et al. 2020).
        hierarchy: `imagenet`: the classes of an episode stand under one node of WordNet (class folders n01440764, ...);
            with the sampler `meta_dataset`.
        ignore_hierarchy: how often they do not.
    """

    way: int = 5
    shot: int = 1
    query: int = 15
    sampler: Literal["fixed", "meta_dataset"] = "fixed"
    hierarchy: Literal["imagenet"] | None = None
    ignore_hierarchy: float = 0.0


@dataclass(frozen=True)
class MetatrainRecipe:
    """Everything that decides a run of `metatrain`.

    Attributes:
        backbone: a network of fewsight (`conv4`, `resnet12`, ...) or a name that `load_backbone` takes.
        backbone_settings: sizes of a network that is trained from scratch, as `width`.
        head, head_settings: a head and the arguments of its constructor.
        image_size: side of the input in pixels; None = the backbone's own.
        frozen: train the head alone.
        memory: how many images stand in one graph; see `EpisodeMemory`.
        penalty: times the squares of all matrices and kernels, added to the loss.
        rotations: photos turned by 90, 180 and 270 degrees are further classes.
        class_split: a packaged list of classes or a JSON file; None = held-out classes.
        class_level: `leaf` takes the deepest folder as the class.
        held_out: share of the classes for validation where no split is known.
        train_photos: at most so many photos of each training class, its first; None = all.
        episodes: of training.
        simclr: how many of them ask for the photo instead of the class; validation episodes never do.
        validation: episodes of held-out classes; `validation_episodes` of them, every `validation_every` steps.
        training: optimiser and schedules.
    """

    backbone: str = "conv4"
    backbone_settings: dict[str, Any] = field(default_factory=dict)
    head: str = "prototypes"
    head_settings: dict[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    frozen: bool = False
    memory: EpisodeMemory = field(default_factory=EpisodeMemory)
    penalty: float = 0.0
    rotations: bool = False
    class_split: str | None = None
    class_level: Literal["top", "leaf"] = "top"
    held_out: float = 0.2
    train_photos: int | None = None
    episodes: EpisodeSettings = field(default_factory=lambda: EpisodeSettings(5, 1, 15))
    simclr: SimclrEpisodes = field(default_factory=lambda: SimclrEpisodes(fraction=0.0))
    validation: EpisodeSettings = field(default_factory=EpisodeSettings)
    validation_episodes: int = 100
    validation_every: int = 500
    training: TrainingSettings = field(default_factory=lambda: TrainingSettings(steps=2000))


@dataclass(frozen=True)
class MetatrainRun:
    """What a run of `metatrain` gave.

    Attributes:
        folder: with `model/`, `metrics.jsonl` and `run.yaml`.
        result: of the loop.
        validation: accuracy of the kept weights on episodes of held-out classes.
        best_step: at which they were kept.
    """

    folder: Path
    result: TrainingResult
    validation: Interval | None
    best_step: int

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        found = self.validation
        return {
            "folder": str(self.folder),
            "steps": self.result.steps,
            "finished": self.result.finished,
            "best_step": self.best_step,
            "validation": None
            if found is None
            else {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n},
            "waiting_for_data": round(self.result.waiting, 4),
            "overhead": round(self.result.overhead, 4),
        }

    def sentences(self) -> Iterator[str]:
        """In words."""
        if not self.result.finished:
            yield f"Interrupted at step {self.result.steps}. Go on with the same command and --resume."
            return
        yield f"Trained for {self.result.steps} steps; {100 * self.result.waiting:.0f} % of the time waiting for data."
        if self.validation is not None:
            yield f"Held-out classes, weights of step {self.best_step}: {self.validation.percent()} right."
        yield f"Judge it: fewsight evaluate DATA --backbone {self.folder / 'model'}"


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
    part: Literal["train", "valid"],
    rotations: bool,
    seed: int,
    stream: str,
    most: int | None = None,
) -> Episodes:
    """Episodes over some classes of a collection; of each at most its first `most` photos.

    Raises:
        InvalidInput: there are too few classes or photos, or the settings of `shape` do not go together.
    """
    if most is not None and most < 1:
        raise InvalidInput(f"train_photos is {most}; expected at least 1, or null for all.")
    by_class = collection.by_class()
    rows: list[NDArray[int64]] = [by_class[number][:most] for number in classes]
    if rotations:
        rows = rotated_classes(rows, len(collection))
    if shape.sampler == "fixed":
        if shape.hierarchy is not None:
            raise InvalidInput(
                f"hierarchy {shape.hierarchy!r} sets the classes of an episode, which the sampler 'fixed' draws by "
                "way: give sampler: meta_dataset."
            )
        return FixedEpisodes(rows, shape.way, shape.shot, shape.query, seed=seed, stream=stream)
    if shape.hierarchy is not None and rotations:
        raise InvalidInput("rotations make classes that no hierarchy holds: leave one of them out.")
    names = [collection.classes[number] for number in classes]
    spans = None if shape.hierarchy is None else spanned_imagenet_classes(names, part)
    return VariableEpisodes(
        rows,
        seed=seed,
        stream=stream,
        spanned_classes=spans,
        ignore_hierarchy_probability=shape.ignore_hierarchy,
    )


@torch.no_grad()
def episode_accuracy(objective: Objective, source: EpisodeSource, count: int) -> Interval:
    """Mean accuracy over the episodes 0 .. count - 1, with its interval over episodes."""
    objective.eval()
    values = []
    for number in range(count):
        objective(on_device(source(number), objective))
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
        part="train",
        rotations=recipe.rotations,
        seed=seed,
        stream="training episode",
        most=recipe.train_photos,
    )
    validation = episodes_of(
        collection,
        classes["val"],
        recipe.validation,
        part="valid",
        rotations=recipe.rotations,
        seed=seed,
        stream="validation episode",
    )
    best = BestWeights(folder)
    held_out = EpisodeSource(store, validation, transform)

    def probe(trained: Objective, step: int) -> Mapping[str, float]:
        accuracy = episode_accuracy(trained, held_out, recipe.validation_episodes)
        best.consider(trained, accuracy, step)
        return {"validation": accuracy.mean, "validation_low": accuracy.low, "validation_high": accuracy.high}

    result = train(
        objective,
        EpisodeSource(store, training, transform, recipe.simclr),
        recipe.training,
        folder,
        seed=seed,
        probe=probe,
        probe_every=recipe.validation_every,
    )
    if result.finished:
        best.restore(objective)
    return result


def metatrain(
    data: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    head: str | None = None,
    backbone: str | None = None,
    supervision: Supervision | None = None,
    workers: int | None = None,
    device: str = "auto",
    devices: int = 1,
    seed: int | None = None,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> MetatrainRun | DenseRun:
    """Train a head and its backbone on episodes drawn from labelled photos.

    Args:
        data: class folders or a CSV.
        out: the run's folder; `model/` in it is what `--backbone` takes.
        recipe: a packaged recipe, a YAML file, or the `run.yaml` of a run to repeat; None = defaults.
        overrides: "key=value" settings of the recipe.
        head, backbone: in place of the recipe's.
        device: where the training runs.
        devices: processes on this machine that train together; the result is that of one process up to rounding.
        seed: None takes that of a run to repeat, else 0.
        supervision: of a dense head (`cst`): `image`, `pixel` or `mixed`; in place of the recipe's.

    Raises:
        FewsightError: the data does not allow the episodes, the recipe is wrong, or the run collapsed.
    """
    if devices != 1:
        made: MetatrainRun | DenseRun = launch(metatrain, {**locals(), "devices": 1}, devices)
        return made
    if is_dense(head, recipe, overrides):
        return metatrain_dense(
            data, out, recipe=recipe or SMALL, overrides=overrides, backbone=backbone, supervision=supervision,
            workers=workers, device=device, seed=seed, resume=resume, force=force, quiet=quiet,
        )  # fmt: skip
    if supervision is not None:
        raise InvalidInput("--supervision belongs to dense heads: give --head cst, or leave it out.")
    chosen = read_recipe(MetatrainRecipe, recipe, overrides)
    chosen = replace(chosen, head=head or chosen.head, backbone=backbone or chosen.backbone)
    options, earlier_data = recorded_options(MetatrainRecipe, recipe)
    seed = int(options.get("seed", 0)) if seed is None else seed
    with training_run(out, resume=resume, force=force, quiet=quiet) as folder:
        collection = read_layout(data, class_level=chosen.class_level).collection
        photos = fingerprint(collection)
        if earlier_data.get("data", photos) != photos:
            say(f"{data} holds other photos than the run in {recipe} had: its figures will differ.")
        record = RunRecord("metatrain", {**as_values(chosen), "seed": seed}, {"data": photos})
        if distributed.is_main():
            record_run(folder, record, resume=resume, free=HOUSEKEEPING)
        torch.manual_seed(stream_seed(seed, "weights") >> 1)
        objective = _objective(chosen, seed).to(resolve_device(device))
        store = stored_once(collection, objective.encoder.transform, folder / "store", workers=workers)
        result = train_episodes(objective, collection, store, chosen, folder, seed)
        if not result.finished:
            return MetatrainRun(folder, result, None, -1)
        kept = BestWeights(folder)
        _save(folder / "model", objective, chosen, kept)
        return MetatrainRun(folder, result, kept.interval, kept.step)


def _objective(recipe: MetatrainRecipe, seed: int) -> Episodic:
    known = find(recipe.backbone)
    if known is not None and known.kind == "untrained":
        backbone = untrained_backbone(
            recipe.backbone, image_size=recipe.image_size, seed=seed, **recipe.backbone_settings
        )
    elif recipe.backbone_settings:
        raise InvalidInput(
            f"backbone_settings are for networks that start from scratch; {recipe.backbone} has its own sizes."
        )
    else:
        backbone = load_backbone(recipe.backbone, image_size=recipe.image_size)
    made = resolve("heads", recipe.head)
    settings = dict(recipe.head_settings)
    if issubclass(made, VectorHead):
        settings.setdefault("pooling", backbone.pooling)
    try:
        head = made(**settings)
    except TypeError as error:
        raise InvalidInput(f"head_settings {settings} do not fit the head {recipe.head}: {error}.") from error
    objective = Episodic(backbone, head, frozen=recipe.frozen, memory=recipe.memory, penalty=recipe.penalty)
    return objective.to(memory_format=torch.channels_last)


def _save(folder: Path, objective: Episodic, recipe: MetatrainRecipe, best: BestWeights) -> None:
    import fewsight

    backbone, head = (full_state(dict(part.state_dict())) for part in (objective.encoder, objective.head))
    if not distributed.is_main():
        return
    tensors = {f"backbone.{name}": value.cpu().contiguous() for name, value in backbone.items()}
    tensors |= {f"head.{name}": value.cpu() for name, value in head.items()}
    description = {
        "backbone": describe(objective.encoder),
        "head": {"name": recipe.head, "settings": recipe.head_settings},
        "provenance": {
            "fewsight": fewsight.__version__,
            "trained": "metatrain",
            "step": best.step,
            "validation_accuracy": best.score,
        },
    }
    write_model(folder, SavedModel("backbone", description, tensors))
