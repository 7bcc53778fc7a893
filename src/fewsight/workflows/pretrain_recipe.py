"""Everything that decides a run of `pretrain`, and what a recipe becomes for a number of photos."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from fewsight.backbones.architectures import untrained_backbone, with_image_size
from fewsight.backbones.backbone import Backbone
from fewsight.backbones.loading import load_backbone
from fewsight.data.pipelines import Kind
from fewsight.errors import InvalidInput
from fewsight.names import resolve
from fewsight.objectives.objective import Objective
from fewsight.training.settings import TrainingSettings
from fewsight.workflows.recipes import checked

__all__ = [
    "PRETEXTS",
    "PretrainRecipe",
    "check_pretext",
    "make_backbone",
    "make_objective",
    "training_settings",
]

PRETEXTS = (
    "simclr",
    "moco_v3",
    "dino",
    "msn",
    "swav",
    "mae",
    "simmim",
    "gmml",
    "ibot",
    "masked_clustering",
)


@dataclass(frozen=True)
class PretrainRecipe:
    """Everything that decides a run of `pretrain`.

    Attributes:
        objective: of `PRETEXTS`.
        objective_settings: fields of its settings that differ from the defaults.
        backbone: what is trained: a name of `fewsight backbones`, a timm architecture, or a file of weights.
        from_scratch: random weights in place of the published ones.
        network: for a network from scratch: sizes that differ from the architecture, as {depth: 6, patch_size: 4}.
        image_size: side of the network's input in use and in the verdict; None = the backbone's own.
        view_size: side of the large views in training; None = the image size.
        store_size: side of the stored photos that views are cut from; None = 8/7 of the view size.
        kind: of the pictures: `photos`, `greyscale`, `texture` or `overhead`; None looks at some of them.
        batch_size: photos of a step over all ranks, cut to the number of photos.
        epochs: length of the run; None takes `training.steps` as they are.
        warmup_epochs: warm-up of the rate where `epochs` is given.
        rate_batch: `training.learning_rate` is meant for this many photos a step and grows linearly with them; None
            takes it as it is.
        held_out: share of the labelled photos that the training does not see and the verdict is made on.
        watch_every: steps between two looks at the features (and k-NN, where there are labels).
        training: optimiser and schedules.
    """

    objective: str = "masked_clustering"
    objective_settings: dict[str, Any] = field(default_factory=dict)
    backbone: str = "auto"
    from_scratch: bool = False
    network: dict[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    view_size: int | None = None
    store_size: int | None = None
    kind: Kind | None = None
    batch_size: int = 64
    epochs: float | None = None
    warmup_epochs: float = 0.0
    rate_batch: int | None = None
    held_out: float = 0.2
    watch_every: int = 100
    training: TrainingSettings = field(default_factory=lambda: TrainingSettings(steps=600))

    def __post_init__(self) -> None:
        check_pretext(self.objective)
        if not 0 <= self.held_out < 1:
            raise InvalidInput(f"held_out is {self.held_out}; expected a share in [0, 1).")
        if self.batch_size < 2:
            raise InvalidInput(f"batch_size is {self.batch_size}; expected at least 2.")
        if self.watch_every < 1:
            raise InvalidInput(f"watch_every is {self.watch_every}; expected at least 1.")
        if self.epochs is not None and not self.epochs > 0:
            raise InvalidInput(f"epochs is {self.epochs}; expected more than 0.")


def check_pretext(objective: str) -> None:
    """Whether an objective learns without labels.

    Raises:
        InvalidInput: it does not, or there is none of that name (the nearest is named).
    """
    if objective not in PRETEXTS:
        resolve("objectives", objective)
        raise InvalidInput(
            f"objective {objective!r} is no pretext task; choose one of {', '.join(PRETEXTS)}."
        )


def make_backbone(recipe: PretrainRecipe, *, device: str = "cpu", seed: int = 0) -> Backbone:
    """The network that the recipe trains, as it is before."""
    if recipe.from_scratch:
        size, network = recipe.image_size, dict(recipe.network)
        if size is not None and recipe.backbone.startswith(("vit_", "deit_")):
            network.setdefault("img_size", size)
        return untrained_backbone(recipe.backbone, image_size=size, seed=seed, **network).to(device)
    return load_backbone(recipe.backbone, image_size=recipe.image_size, device=device)


def make_objective(recipe: PretrainRecipe, backbone: Backbone) -> Objective:
    """The objective on a backbone, with the recipe's settings; the backbone's input becomes as large as the views.

    Raises:
        InvalidInput: a setting is unknown to the objective, or wrong; or the backbone does not suit it.
    """
    made = resolve("objectives", recipe.objective)
    if recipe.view_size is not None:
        with_image_size(backbone, recipe.view_size)
    settings = checked(
        made.settings_type, recipe.objective_settings, f"objective_settings of {recipe.objective}"
    )
    objective: Objective = made(backbone, settings)
    return objective


def training_settings(recipe: PretrainRecipe, photos: int) -> TrainingSettings:
    """The recipe's, with steps from epochs, and the rate for the batch that there is.

    >>> recipe = PretrainRecipe(batch_size=128, epochs=10, warmup_epochs=1, rate_batch=256)
    >>> settings = training_settings(recipe, 1280)
    >>> (settings.steps, settings.warmup_steps, settings.learning_rate)
    (100, 10, 0.0005)
    """
    settings = recipe.training
    size = min(recipe.batch_size, photos)
    if recipe.epochs is not None:
        batches = max(1, photos // size) / settings.accumulation
        steps = max(1, round(recipe.epochs * batches))
        settings = replace(settings, steps=steps, warmup_steps=round(recipe.warmup_epochs * batches))
    if recipe.rate_batch is not None:
        factor = size * settings.accumulation / recipe.rate_batch
        settings = replace(settings, learning_rate=settings.learning_rate * factor)
    # A warm-up or a frozen start longer than the run would never let it learn.
    return replace(
        settings,
        warmup_steps=min(settings.warmup_steps, settings.steps // 4),
        backbone_frozen_steps=min(settings.backbone_frozen_steps, settings.steps // 4),
    )
