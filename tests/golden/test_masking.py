"""Patches and masks against the authors' code with its random draws given."""

from __future__ import annotations

import pytest
from golden_cases import cases

from fewsight.objectives.gmml import masked_pixel_loss
from fewsight.objectives.masking import block_mask, gmml_corrupt, grid_mask, patchify, random_mask, unpatchify


@pytest.mark.parametrize("case", cases("patchify"), ids=str)
def test_patchify(case):
    images, p = case.tensor("images"), case.params["patch_size"]
    patches = patchify(images, p)
    case.check(patches=patches)
    assert unpatchify(patches, p, (images.shape[2] // p, images.shape[3] // p)).equal(images)


@pytest.mark.parametrize("case", cases("masks_random"), ids=str)
def test_random_mask(case):
    case.check(**random_mask(case.tensor("noise"), **case.params)._asdict())


@pytest.mark.parametrize("case", cases("masks_grid"), ids=str)
def test_grid_mask(case):
    case.check(mask=grid_mask(case.tensor("permutation"), **case.params))


@pytest.mark.parametrize("case", cases("masks_block"), ids=str)
def test_block_mask(case):
    grid_size = tuple(case.inputs["grid_size"].tolist())
    case.check(mask=block_mask(grid_size=grid_size, draws=case.tensor("draws"), **case.params))


@pytest.mark.parametrize("case", cases("gmml_corruption"), ids=str)
def test_gmml_corruption(case):
    image = case.tensor("image")
    corrupted, mask = gmml_corrupt(image, case.tensor("fill"), case.tensor("draws"), **case.params)
    results = {"corrupted": corrupted, "mask": mask}
    for norm in ("l1", "l2"):
        reconstruction = case.tensor("reconstruction", grad=True)
        loss = masked_pixel_loss(reconstruction, image, mask, norm=norm)
        loss.backward()
        results |= {norm: loss, f"grad_{norm}": reconstruction.grad}
    case.check(**results)
