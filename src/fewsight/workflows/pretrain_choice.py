"""What `pretrain` does when nothing is said: a recipe from the number of photos and the machine, in words too.

From published weights the heads are new: they learn first while the backbone stands still, then it moves at a low rate
(continuing at a full rate spoils features within 30,000 photos, as was seen on DINOv2). A run of a few hundred steps is
too short for a teacher that follows as slowly as published (0.996): it would be kept as it was. So the default tells
photos apart without a teacher, and with one it follows within a tenth of the run. From random weights few photos teach
nothing that lasts, so small folders are refused unless asked for by `--set from_scratch=true` and a recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy
from numpy.typing import NDArray

from fewsight.backbones.backbone import Backbone
from fewsight.data.pipelines import Kind
from fewsight.errors import InvalidInput
from fewsight.names import resolve
from fewsight.objectives.scaling import scaled_values
from fewsight.progress import duration
from fewsight.seeding import numpy_generator
from fewsight.training.settings import TrainingSettings
from fewsight.training.view_source import Order, Photos
from fewsight.workflows.pretrain_recipe import PretrainRecipe, training_settings

__all__ = [
    "CONTINUED_WITH",
    "ENOUGH",
    "FEWEST_FROM_SCRATCH",
    "check_evidence",
    "choice_sentence",
    "continuing_recipe",
    "fitted",
    "seen_kind",
    "view_remarks",
    "with_scaled_settings",
    "with_smaller_views",
]

CONTRASTIVE = ("simclr", "moco_v3")
CONTINUED_WITH = "simclr"  # see docs/pretraining.md for what it gave
FEWEST_FROM_SCRATCH = 2000  # photos; below, nothing published learns useful features from random weights
FEWEST = 8  # photos; below, a batch is no sample of anything
SHORTEST, LONGEST = 200, 2000  # steps of a run that continues
EPOCHS = 20
ENOUGH = max(
    FEWEST_FROM_SCRATCH, LONGEST * 32 // EPOCHS
)  # photos; more of them change nothing that is chosen
LOOKED_AT = 64  # photos whose colour is looked at
GREY_SPREAD = 4.0  # grey levels between channels that compression leaves in a grey photo


def continuing_recipe(photos: int, objective: str = CONTINUED_WITH) -> PretrainRecipe:
    """The default: go on from published weights, gently.

    >>> continuing_recipe(500).training.steps, continuing_recipe(500).batch_size
    (312, 32)
    """
    batch = min(32, photos)
    steps = int(min(LONGEST, max(SHORTEST, EPOCHS * photos / batch)))
    changed: dict[str, Any] = {"momentum": round(1 - 10 / steps, 4), "patch_weight": 0.0, "drop_path": 0.0}
    if objective in CONTRASTIVE:
        changed["scale"] = (0.3, 1.0)  # a crop of a twelfth, as from scratch, seldom holds what a photo shows
    return PretrainRecipe(
        objective=objective,
        objective_settings=_known(objective, changed),
        batch_size=batch,
        training=TrainingSettings(
            steps=steps,
            learning_rate=1e-3,
            final_learning_rate=1e-6,
            warmup_steps=steps // 10,
            weight_decay=0.04,
            layer_decay=0.75,
            backbone_rate=0.06,
            backbone_frozen_steps=steps // 5,
            clip=3.0,
            checkpoint_every=50,
        ),
    )


def _known(objective: str, values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values that the objective has a setting for."""
    names = {field.name for field in fields(resolve("objectives", objective).settings_type)}
    return {name: value for name, value in values.items() if name in names}


def with_smaller_views(recipe: PretrainRecipe, backbone: Backbone) -> PretrainRecipe:
    """Large views of two thirds of the input and small ones of half of those: half the time, for photos as they come.

    Sides are multiples of the stride; small views have at least 64 pixels, below which trained networks see little.
    """
    stride = backbone.stride
    view = max(64, stride * round(backbone.image_size[0] * 2 / 3 / stride))
    local = max(stride * -(-64 // stride), stride * round(view / 2 / stride))
    small = _known(recipe.objective, {"local_size": local, "focal_size": local})
    return replace(recipe, view_size=view, objective_settings={**small, **recipe.objective_settings})


def check_evidence(photos: int, recipe: PretrainRecipe, *, insist: bool) -> None:
    """Refuse what the evidence does not support.

    Args:
        insist: the recipe was given, not chosen: only what cannot work at all is refused.

    Raises:
        InvalidInput: too few photos; the message says what to do instead.
    """
    if photos < FEWEST:
        raise InvalidInput(
            f"{photos} photos are too few to learn from without labels (at least {FEWEST}); "
            "`fewsight predict` works with one photo a class and needs no pretraining."
        )
    if recipe.from_scratch and photos < FEWEST_FROM_SCRATCH and not insist:
        raise InvalidInput(
            f"{photos} photos are too few to start from random weights: nothing published learns lasting features from "
            f"fewer than {FEWEST_FROM_SCRATCH}. Go on from a trained backbone (leave from_scratch out), or insist with "
            "--insist."
        )


def with_scaled_settings(recipe: PretrainRecipe, photos: int) -> PretrainRecipe:
    """The recipe with what the size of the data decides (prototypes, temperatures, momentum, small views), where the
    recipe does not say it.
    """
    kind = resolve("objectives", recipe.objective).settings_type
    given = recipe.objective_settings
    steps = training_settings(recipe, photos).steps
    scaled = scaled_values(
        kind, photos, batch=min(recipe.batch_size, photos), steps=steps, collapse=given.get("collapse")
    )
    return replace(recipe, objective_settings={**scaled, **given})


def fitted(
    recipe: PretrainRecipe, seconds_per_step: float, most_minutes: float
) -> tuple[PretrainRecipe, str]:
    """A chosen recipe cut to the time that a person would wait, and how long it will take in words.

    >>> recipe, words = fitted(continuing_recipe(500), 12.0, 30)
    >>> recipe.training.steps, words
    (200, 'About 40 min (200 steps of 12.0 s).')
    """
    steps = recipe.training.steps
    if steps * seconds_per_step > 60 * most_minutes:
        steps = max(SHORTEST, int(60 * most_minutes / seconds_per_step))
        steps = min(steps, recipe.training.steps)
        training = replace(
            recipe.training, steps=steps, warmup_steps=steps // 10, backbone_frozen_steps=steps // 5
        )
        recipe = replace(recipe, training=training)
    return recipe, f"About {duration(steps * seconds_per_step)} ({steps} steps of {seconds_per_step:.1f} s)."


def choice_sentence(recipe: PretrainRecipe, settings: TrainingSettings, photos: int) -> str:
    """What was chosen, in words."""
    start = "from random weights" if recipe.from_scratch else "going on from its weights"
    prototypes = recipe.objective_settings.get("prototypes")
    heads = "" if prototypes is None else f"{prototypes} prototypes, "
    return (
        f"{recipe.objective} on {photos} photos, {start}; batches of {min(recipe.batch_size, photos)}, {heads}"
        f"{settings.steps} steps, pictures taken as {recipe.kind}."
    )


def seen_kind(photos: Photos, rows: NDArray[numpy.int64] | Order, seed: int) -> Kind:
    """`greyscale` where some photos have no colour at all, else `photos`; other kinds must be named."""
    if isinstance(rows, numpy.ndarray):
        draw = numpy_generator(seed, "colour of photos")
        chosen = draw.choice(rows, min(LOOKED_AT, len(rows)), replace=False)
    else:
        chosen = rows.rows(0, 0, min(LOOKED_AT, rows.places), seed)
    pixels = photos.rows(numpy.sort(chosen)).int()
    spread = (pixels.amax(1) - pixels.amin(1)).flatten(1).float().mean(1)  # [N] grey levels between channels
    return "greyscale" if bool((spread < GREY_SPREAD).float().mean() > 0.9) else "photos"


def view_remarks(recipe: PretrainRecipe, kind: Kind) -> Iterator[str]:
    """What a person should know about the views."""
    if recipe.kind is None and kind == "greyscale":
        yield "The photos have no colour: colour jitter and solarising are left out (--kind photos brings them back)."
    if recipe.kind is None and kind == "photos":
        yield "Pictures from above or of materials? --kind overhead or texture leaves out what would mislead."
