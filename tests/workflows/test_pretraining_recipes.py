"""Every pretraining recipe is loaded, built and trained for two steps, with a smaller network of the same kind."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from fewsight.names import choices, resolve
from fewsight.objectives.objective import Batch
from fewsight.training.loop import train
from fewsight.workflows.pretrain_recipe import (
    PRETEXTS,
    PretrainRecipe,
    make_backbone,
    make_objective,
    training_settings,
)
from fewsight.workflows.recipes import packaged_recipes, read_recipe
from objectives.tiny import batch

RECIPES = sorted(packaged_recipes("pretrain"))
# what costs memory or time and changes nothing about the method
SMALLER = {
    "prototypes": 24,
    "hidden": 16,
    "queue": 8,
    "decoder_dim": 24,
    "decoder_depth": 1,
    "decoder_heads": 3,
}


def smaller(recipe: PretrainRecipe) -> PretrainRecipe:
    """The same recipe for a network 24 wide and 2 deep; view sizes and patches stay."""
    kind = resolve("objectives", recipe.objective).settings_type
    known = {field.name for field in fields(kind)}
    settings = {**recipe.objective_settings, **{name: SMALLER[name] for name in SMALLER if name in known}}
    if settings.get("patch_prototypes", getattr(kind, "patch_prototypes", 0)):
        settings["patch_prototypes"] = 24
    heads = 12 if recipe.network.get("num_heads") == 12 else 3
    network = {**recipe.network, "embed_dim": 24, "depth": 2, "num_heads": heads}
    return replace(recipe, objective_settings=settings, network=network)


def test_every_pretext_has_its_published_and_its_small_recipe() -> None:
    assert set(PRETEXTS) <= set(choices("objectives"))
    assert {*PRETEXTS, *(f"{name}_small" for name in PRETEXTS)} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_two_steps(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(PretrainRecipe, name)
    assert (
        training_settings(recipe, 1_281_167 if recipe.image_size == 224 else 10_000).steps
        == recipe.training.steps
    )
    small = smaller(recipe)
    torch.manual_seed(0)
    objective = make_objective(small, make_backbone(small))

    def batches(number: int) -> Batch:
        return batch(objective, images=3, step=number)

    settings = replace(
        training_settings(small, 6), steps=2, warmup_steps=1, precision="fp32", checkpoint_every=2, prefetch=0
    )
    before = [parameter.detach().clone() for parameter in objective.trained_backbone().parameters()]
    result = train(objective, batches, settings, tmp_path)
    after = list(objective.trained_backbone().parameters())
    assert result.finished
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
