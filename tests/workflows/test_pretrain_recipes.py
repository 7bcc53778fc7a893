"""Every packaged recipe of `pretrain` is loaded, built and run for two steps, with its network and heads made tiny."""

from dataclasses import fields, replace

import numpy
import pytest
import torch

from fewsight.names import resolve
from fewsight.training.loop import train
from fewsight.training.view_source import ViewSource
from fewsight.workflows.pretrain_choice import with_scaled_settings
from fewsight.workflows.pretrain_recipe import (
    PretrainRecipe,
    make_backbone,
    make_objective,
    training_settings,
)
from fewsight.workflows.recipes import packaged_recipes, read_recipe

RECIPES = sorted(packaged_recipes("pretrain"))
SMALL = {
    "prototypes": 16,
    "patch_prototypes": 16,
    "hidden": 16,
    "bottleneck": 8,
    "projection": 8,
    "decoder_dim": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "local_size": 32,
    "focal_size": 32,
}
SINGLE = {"local_views": 1, "focal_views": 1}


class _Photos:
    """Eight noisy photos of 72 px."""

    def __len__(self):
        return 8

    def rows(self, index):
        pixels = numpy.random.default_rng(0).integers(0, 256, (8, 3, 72, 72), numpy.uint8)
        return torch.from_numpy(pixels[numpy.asarray(index)])


def _tiny(recipe: PretrainRecipe) -> PretrainRecipe:
    names = {field.name for field in fields(resolve("objectives", recipe.objective).settings_type)}
    small = {name: value for name, value in SMALL.items() if name in names}
    # a recipe without small views keeps none
    small |= {name: 1 for name in SINGLE if name in names and recipe.objective_settings.get(name, 1)}
    if recipe.objective_settings.get("patch_prototypes") == 0:
        small.pop("patch_prototypes")
    return replace(
        recipe,
        network={**recipe.network, "depth": 2, "embed_dim": 24, "num_heads": 2},
        image_size=64,
        view_size=None,
        batch_size=4,
        objective_settings={**recipe.objective_settings, **small},
    )


def test_there_is_a_published_and_a_small_recipe_of_every_method():
    kinds = [read_recipe(PretrainRecipe, name).objective for name in RECIPES]
    for method in (
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
    ):
        assert kinds.count(method) >= 2, method


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps(name, tmp_path):
    recipe = read_recipe(PretrainRecipe, name)
    published = training_settings(recipe, 10_000)
    assert published.warmup_steps < published.steps
    recipe = _tiny(with_scaled_settings(recipe, 8))
    objective = make_objective(recipe, make_backbone(recipe))
    backbone = objective.backbone()
    before = [parameter.detach().clone() for parameter in objective.parameters() if parameter.requires_grad]
    settings = replace(
        recipe.training, steps=2, warmup_steps=0, accumulation=1, prefetch=0, backbone_frozen_steps=0
    )
    source = ViewSource(_Photos(), numpy.arange(8), objective.views, backbone.transform, 4)
    result = train(objective, source, settings, tmp_path)
    assert result.finished
    assert all(numpy.isfinite(value) for value in result.losses.values())
    after = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=False))
