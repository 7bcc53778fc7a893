"""Patches and masks: properties over random draws, the settings of the papers, what is refused."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewsight.errors import InvalidInput
from fewsight.objectives.masking import (
    block_mask,
    block_masks,
    gmml_corrupt,
    gmml_mask,
    gmml_masks,
    grid_mask,
    other_image,
    patch_mask,
    patchify,
    random_mask,
    unpatchify,
)
from fewsight.seeding import numpy_generator


@settings(max_examples=25, deadline=None)
@given(
    B=st.integers(1, 3), C=st.integers(1, 4), h=st.integers(1, 4), w=st.integers(1, 4), p=st.integers(1, 4)
)
def test_unpatchify_inverts_patchify(B, C, h, w, p):
    images = torch.rand(B, C, h * p, w * p)
    patches = patchify(images, p)
    assert patches.shape == (B, h * w, p * p * C)
    assert unpatchify(patches, p, (h, w)).equal(images)
    # Patch (row, column) is cut out at its place, channel fastest.
    corner = images[:, :, -p:, -p:].permute(0, 2, 3, 1).reshape(B, -1)
    assert patches[:, -1].equal(corner)


@settings(max_examples=40, deadline=None)
@given(L=st.integers(1, 40), ratio=st.floats(0, 0.99), seed=st.integers(0, 9))
def test_random_mask_properties(L, ratio, seed):
    noise = torch.rand(3, L, generator=torch.Generator().manual_seed(seed))
    kept = int(L * (1 - ratio))
    if kept == 0:
        with pytest.raises(InvalidInput, match="mask_ratio"):
            random_mask(noise, ratio)
        return
    ids_keep, mask, ids_restore = random_mask(noise, ratio)
    assert ids_keep.shape == (3, kept)
    assert (mask.sum(dim=1) == L - kept).all()
    assert (mask.gather(1, ids_keep) == 0).all()
    # Kept tokens, then blanks, put back: each kept token stands at its own raster place.
    tokens = torch.arange(L).expand(3, L)
    filled = torch.cat([tokens.gather(1, ids_keep), torch.full((3, L - kept), -1)], dim=1).gather(
        1, ids_restore
    )
    assert filled.equal(torch.where(mask.bool(), -1, tokens))


def test_random_mask_of_ratio_zero_still_shuffles():
    noise = torch.tensor([[0.9, 0.1, 0.5]])
    assert random_mask(noise, 0.0).ids_keep.tolist() == [[1, 2, 0]]


def test_random_mask_published_counts():
    assert random_mask(torch.rand(1, 196), 0.75).ids_keep.shape[1] == 49
    with pytest.raises(InvalidInput, match="at least one"):
        random_mask(torch.rand(1, 10), 0.9)  # 10 * (1 - 0.9) is just below 1
    for ratio in (-0.1, 1.0, math.nan):
        with pytest.raises(InvalidInput, match="mask_ratio"):
            random_mask(torch.rand(1, 10), ratio)


def test_grid_mask_has_whole_squares():
    permutation = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    mask = grid_mask(permutation, 192, 32, 4, 0.6)
    cells = mask.view(6, 8, 6, 8).permute(0, 2, 1, 3).reshape(36, 64)
    assert cells.float().std(dim=1).max() == 0
    assert int(cells[:, 0].sum()) == math.ceil(36 * 0.6)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((torch.arange(36), 190, 32, 4, 0.6), "input_size"),
        ((torch.arange(36), 192, 32, 5, 0.6), "model_patch_size"),
        ((torch.arange(35), 192, 32, 4, 0.6), "permutation"),
        ((torch.zeros(36, dtype=torch.int64), 192, 32, 4, 0.6), "permutation"),
        ((torch.arange(36), 192, 32, 4, 1.5), "mask_ratio"),
        ((torch.arange(36), 192, 0, 4, 0.5), "mask_patch_size"),
    ],
)
def test_grid_mask_refuses(arguments, name):
    with pytest.raises(InvalidInput, match=name):
        grid_mask(*arguments)


@settings(max_examples=40, deadline=None)
@given(h=st.integers(2, 14), w=st.integers(2, 14), ratio=st.floats(0, 1), seed=st.integers(0, 9))
def test_block_mask_never_exceeds_its_target(h, w, ratio, seed):
    generator = numpy_generator(seed, "mask", h, w)
    (mask,) = block_masks([ratio * h * w], (h, w), generator)
    assert mask.shape == (h, w)
    assert set(mask.unique().tolist()) <= {0, 1}
    assert int(mask.sum()) <= ratio * h * w


def test_block_masks_of_beit_reach_their_target_and_repeat():
    masks = block_masks([75] * 8, (14, 14), numpy_generator(0, "mask"), min_patches=16)
    assert (masks.sum(dim=(1, 2)) >= 70).all()
    again = block_masks([75] * 8, (14, 14), numpy_generator(0, "mask"), min_patches=16)
    assert masks.equal(again)
    assert not masks[0].equal(masks[1])
    # Connected areas: a masked patch has far more masked neighbours than chance (75 / 196) would give it.
    neighbours = (masks[:, :, 1:] * masks[:, :, :-1]).sum() / masks[:, :, :-1].sum()
    assert neighbours > 0.6


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"grid_size": (0, 4)}, "grid_size"),
        ({"grid_size": (4, 4, 4)}, "grid_size"),
        ({"target_count": 17}, "target_count"),
        ({"target_count": math.nan}, "target_count"),
        ({"aspect": (2.0, 1.0)}, "aspect"),
        ({"aspect": (0.0, 1.0)}, "aspect"),
        ({"max_patches": 0}, "max_patches"),
        ({"draws": torch.rand(3, 5)}, "draws"),
        ({"draws": torch.ones(3, 4)}, "draws"),
    ],
)
def test_block_mask_refuses(change, name):
    given_ = {
        "grid_size": (4, 4),
        "target_count": 8,
        "min_patches": 2,
        "max_patches": None,
        "aspect": (0.3, 1 / 0.3),
        "draws": torch.rand(20, 4),
    }
    with pytest.raises(InvalidInput, match=name):
        block_mask(**(given_ | change))


@settings(max_examples=30, deadline=None)
@given(
    H=st.integers(16, 40),
    W=st.integers(16, 40),
    align=st.integers(1, 4),
    fraction=st.floats(0.05, 0.6),
    seed=st.integers(0, 9),
)
def test_gmml_changes_exactly_what_the_mask_says(H, W, align, fraction, seed):
    generator = numpy_generator(seed, "corruption")
    image, fill = torch.zeros(3, H, W), torch.ones(3, H, W)
    draws = torch.from_numpy(generator.random((2000, 4)))
    corrupted, mask = gmml_corrupt(image, fill, draws, 0.5, fraction, align, 0.6)
    assert corrupted.equal(mask.expand(3, H, W).float())
    assert image.equal(torch.zeros(3, H, W))
    goal = (min(0.5, fraction) + 0.5 * (fraction - min(0.5, fraction))) * H * W
    # The last block may overshoot by its own area.
    assert goal <= mask.sum() <= goal + (0.6 * H + align) * (0.6 * W + align)


def test_gmml_aligned_blocks_cover_whole_patches():
    masks = gmml_masks(
        4, (32, 32), numpy_generator(0, "corruption"), max_fraction=0.5, align=8, max_block=0.5
    )
    share = masks.view(4, 4, 8, 4, 8).float().mean(dim=(2, 4))
    assert set(share.unique().tolist()) == {0.0, 1.0}
    assert patch_mask(masks, 8).equal(share.bool().flatten(1))
    assert not masks[0].equal(masks[1])


def test_patch_mask_marks_patches_with_any_masked_pixel():
    mask = torch.zeros(2, 1, 4, 6, dtype=torch.int64)
    mask[1, 0, 3, 2] = 1
    expected = torch.zeros(2, 1, 6, dtype=torch.bool)
    expected[1, 0, 4] = True
    assert patch_mask(mask, 2).equal(expected)
    assert patch_mask(mask[1, 0], 2).equal(expected[1, 0])


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"align": 5}, "align"),  # int(16 * 0.3) = 4
        ({"align": 4}, "align"),
        ({"align": 0}, "align"),
        ({"draws": torch.rand(1, 4)}, "draws"),
        ({"max_fraction": 0.0}, "max_fraction"),
        ({"max_fraction": 1.5}, "max_fraction"),
        ({"fraction_draw": -0.1}, "fraction_draw"),
        ({"max_block": math.nan}, "max_block"),
        ({"size": (16,)}, "size"),
    ],
)
def test_gmml_mask_refuses(change, name):
    given_ = {
        "size": (16, 16),
        "draws": torch.rand(500, 4),
        "fraction_draw": 0.5,
        "max_fraction": 0.5,
        "align": 2,
        "max_block": 0.3,
    }
    with pytest.raises(InvalidInput, match=name):
        gmml_mask(**(given_ | change))


def test_gmml_ends_where_the_goal_is_out_of_reach(monkeypatch):
    # With align 8 the last aligned start is never drawn, so the right and lower parts cannot be covered.
    monkeypatch.setattr("fewsight.objectives.masking.MAX_BLOCKS", 200)
    with pytest.raises(InvalidInput, match="short of the goal"):
        gmml_masks(1, (20, 20), numpy_generator(0, "corruption"), max_fraction=1.0, align=8, max_block=0.5)


def test_other_image_is_never_the_image_itself():
    generator = numpy_generator(0, "partner")
    partners = torch.stack([other_image(5, generator) for _ in range(200)])
    assert (partners != torch.arange(5)).all()
    assert set(partners[:, 0].tolist()) == {1, 2, 3, 4}
    with pytest.raises(InvalidInput, match="batch_size"):
        other_image(1, generator)


def test_no_global_generator_is_touched():
    numpy.random.seed(0)
    torch.manual_seed(0)
    before = numpy.random.get_state()[1].tolist(), torch.get_rng_state()
    gmml_masks(2, (32, 32), numpy_generator(0, "corruption"))
    block_masks([10], (8, 8), numpy_generator(0, "mask"))
    assert numpy.random.get_state()[1].tolist() == before[0]
    assert torch.get_rng_state().equal(before[1])


@pytest.mark.parametrize(
    ("shape", "patch_size"), [((1, 3, 8, 9), 4), ((1, 3, 8, 8), 0), ((1, 3, 8, 8), 3), ((3, 8, 8), 4)]
)
def test_patchify_refuses(shape, patch_size):
    with pytest.raises(InvalidInput):
        patchify(torch.zeros(shape), patch_size)


def test_unpatchify_refuses():
    with pytest.raises(InvalidInput, match="patches"):
        unpatchify(torch.zeros(1, 6, 12), 2, (2, 2))
    with pytest.raises(InvalidInput, match="patches"):
        unpatchify(torch.zeros(1, 4, 13), 2, (2, 2))
