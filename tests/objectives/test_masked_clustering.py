"""The joined framework: its three terms are those of its parts, and its switches do what they say."""

from __future__ import annotations

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.objectives.assignments import assign_patches
from fewsight.objectives.cross_entropy import mean_cross_entropy
from fewsight.objectives.dino import dino_loss
from fewsight.objectives.gmml import masked_pixel_loss
from fewsight.objectives.ibot import masked_patch_loss
from fewsight.objectives.masked_clustering import masked_clustering_loss
from fewsight.objectives.masking import patch_mask


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    mask = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    mask[:, :2, :2, 1:3] = True
    return {
        "student_cls": random(5, 3, 6),
        "teacher_cls": random(2, 3, 6, seed=1),
        "student_patches": random(2, 3, 4, 7, seed=2),
        "teacher_patches": random(2, 3, 4, 7, seed=3),
        "reconstruction": random(2, 3, 3, 4, 4, seed=4),
        "images": random(2, 3, 3, 4, 4, seed=5),
        "mask": mask,
    }


@pytest.mark.parametrize("method", ["none", "centring", "sinkhorn"])
@pytest.mark.parametrize("patch_targets", ["all", "masked"])
def test_terms_are_those_of_the_parts(batch, method, patch_targets):
    centers = (random(6, seed=6), random(7, seed=7)) if method == "centring" else (None, None)
    patches = patch_mask(batch["mask"], 2)
    losses = masked_clustering_loss(
        **batch,
        center=centers[0],
        patch_center=centers[1],
        student_temperature=0.1,
        teacher_temperature=0.07,
        patch_targets=patch_targets,
        patch_mask=patches,
        reconstruction_error="l1",
        method=method,
        patch_method=method,
    )
    classes, pairs = (
        (batch["student_cls"], batch["teacher_cls"]),
        (batch["student_patches"], batch["teacher_patches"]),
    )
    torch.testing.assert_close(losses.cls_loss, dino_loss(*classes, centers[0], 0.1, 0.07, method=method))
    if patch_targets == "masked":
        expected = masked_patch_loss(*pairs, patches, centers[1], 0.1, 0.07, method=method)
    else:
        targets = assign_patches(pairs[1], method, 0.07, centers[1])
        expected = mean_cross_entropy(pairs[0], targets, 0.1)
    torch.testing.assert_close(losses.patch_loss, expected)
    pixels = masked_pixel_loss(batch["reconstruction"], batch["images"], batch["mask"], "l1")
    torch.testing.assert_close(losses.reconstruction_loss, pixels)


def test_published_defaults(batch):
    centers = {"center": torch.zeros(6).double(), "patch_center": torch.zeros(7).double()}
    preset = masked_clustering_loss(**batch, **centers, student_temperature=0.1, teacher_temperature=0.07)
    spelt = masked_clustering_loss(
        **batch,
        **centers,
        student_temperature=0.1,
        teacher_temperature=0.07,
        patch_targets="all",
        reconstruction_error="l2",
    )
    assert preset == spelt


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"patch_targets": "masked"}, "patch_mask"),
        ({"patch_targets": "masked", "patch_mask": torch.ones(2, 3, 5)}, "patch_mask"),
        ({"patch_targets": "some"}, "patch_targets"),
        ({"reconstruction_error": "l3"}, "reconstruction_error"),
        ({"student_temperature": 0.0}, "student_temperature"),
        ({"patch_center": torch.zeros(6).double()}, "patch_center"),
        ({"mask": torch.ones(2, 3, 5, 4)}, "mask"),
        ({"teacher_cls": torch.zeros(3, 3, 6).double()}, "student_patches"),
        ({"reconstruction": torch.zeros(2, 3, 3, 4, 5)}, "reconstruction"),
    ],
)
def test_refuses(batch, change, name):
    centers = {"center": torch.zeros(6).double(), "patch_center": torch.zeros(7).double()}
    given = batch | centers | {"student_temperature": 0.1, "teacher_temperature": 0.07} | change
    with pytest.raises(InvalidInput, match=name):
        masked_clustering_loss(**given)
