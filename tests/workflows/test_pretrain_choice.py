from dataclasses import replace

import pytest
import torch

from fewsight.backbones.bundled import load_bundled
from fewsight.objectives.fixed_parts import give_mask_token
from fewsight.objectives.objective import Batch, Progress
from fewsight.workflows.pretrain_choice import continuing_recipe, with_scaled_settings, with_smaller_views
from fewsight.workflows.pretrain_recipe import PRETEXTS, make_backbone, make_objective


@pytest.mark.parametrize("name", PRETEXTS)
def test_every_objective_goes_on_from_the_bundled_backbone(name):
    """As chosen at 96 px, where small views are as large as the others; heads first, the backbone stands still."""
    recipe = replace(continuing_recipe(500, name), backbone="fewsight-bundled", image_size=96, batch_size=2)
    backbone = make_backbone(recipe)
    recipe = with_scaled_settings(with_smaller_views(recipe, backbone), 500)
    assert recipe.training.backbone_frozen_steps > 0
    objective = make_objective(recipe, backbone).train()
    objective.before_step(Progress(50, 100))
    views = [spec for spec in objective.views for _ in range(spec.count)]
    generator = torch.Generator().manual_seed(0)
    images = tuple(torch.randn(2, 3, spec.size, spec.size, generator=generator) for spec in views)
    terms = objective.backward(Batch(images=images, index=torch.arange(2), step=0, seed=0))
    assert torch.isfinite(terms.total)
    moved = [p.grad.abs().max() for p in objective.trained_backbone().parameters() if p.grad is not None]
    assert max(moved) > 0


def test_pitfall_25_a_mask_token_of_zeros_starts_anew():
    backbone = load_bundled()
    assert not backbone.mask_token.any()
    give_mask_token(backbone, deviation=0.0)  # as iBOT does
    assert not backbone.mask_token.any()
    give_mask_token(backbone)
    assert backbone.mask_token.std() > 0.01
    before = backbone.mask_token.clone()
    give_mask_token(backbone)
    assert torch.equal(backbone.mask_token, before)
