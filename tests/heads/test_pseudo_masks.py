"""Masks from attention, keys and affinities: definitions written as loops, and what must not matter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fewsight.backbones.features import Features
from fewsight.errors import InvalidInput
from fewsight.heads.head import Support
from fewsight.heads.pseudo_masks import (
    PseudoMaskEnhancer,
    attention_is_flat,
    attention_mass_mask,
    attention_prior,
    bipartition_prior,
    cls_similarity,
    cst_pseudo_masks,
    enhanced_masks,
    mask_prior,
    nearest_similarities,
    refined_prior,
    support_prior,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Halves, quarters and so on: sums are exact, so that ties with 1 - mass are ties.
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=12).filter(any), st.sampled_from([0.25, 0.5, 0.75, 1.0])
)
def test_attention_mass_by_its_definition(counts: list[int], mass: float) -> None:
    attention = torch.tensor([counts], dtype=torch.float64)
    total = sum(counts)
    expected = [sum(c for c in counts if c <= own) / total > 1 - mass + 1e-12 for own in counts]
    assert attention_mass_mask(attention, mass=mass)[0].tolist() == expected
    assert attention_mass_mask(attention.float() * 3, mass=mass)[0].tolist() == expected


def test_attention_prior_is_the_share_of_heads() -> None:
    attention = torch.tensor([[[[0.7, 0.1], [0.1, 0.1]], [[0.1, 0.1], [0.1, 0.7]]]])
    assert attention_prior(attention)[0].tolist() == [[0.5, 0.0], [0.0, 0.5]]
    assert not attention_is_flat(attention_mass_mask(attention[0].flatten(1)))
    assert attention_is_flat(attention_mass_mask(torch.full((3, 20), 0.05)))


def test_bipartition_finds_the_object_and_ignores_the_basis() -> None:
    truth = torch.zeros(6, 6, dtype=torch.bool)
    truth[2:4, 1:4] = True
    noise = 0.3 * random(36, 8)
    patches = torch.where(truth.flatten()[:, None], random(1, 8, seed=1), random(1, 8, seed=2)) + noise
    found = bipartition_prior(patches)
    assert torch.equal(found.bool(), truth.flatten())
    turn = torch.linalg.qr(random(8, 8, seed=3)).Q
    assert torch.equal(bipartition_prior(5 * patches @ turn), found)


@pytest.mark.parametrize(("size", "grid"), [((12, 16), (3, 4)), ((13, 7), (4, 3)), ((5, 5), (7, 2))])
def test_mask_prior_is_an_area(size: tuple[int, int], grid: tuple[int, int]) -> None:
    mask = random(*size) > 0
    mask[: size[0] // 2] = True
    # Each pixel as many pixels: areas inside a patch become counts.
    h, w = grid
    fine = mask.repeat_interleave(h, 0).repeat_interleave(w, 1).float()
    expected = F.avg_pool2d(fine[None], (size[0], size[1]))[0]
    torch.testing.assert_close(mask_prior(mask, grid=grid), expected)


def test_mask_prior_of_small_objects_and_void() -> None:
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    mask[0, 0] = 1
    assert mask_prior(mask, grid=(2, 2)).tolist() == [[1, 0], [0, 0]]  # 1/16 of a patch, raised to 1
    mask[4:, 4:] = 255
    mask[4, 4] = 1
    assert mask_prior(mask, grid=(2, 2))[1, 1] == 1  # all that is known of this patch is foreground
    with pytest.raises(InvalidInput, match="no foreground"):
        mask_prior(torch.zeros(4, 4), grid=(2, 2))


def test_refinement_keeps_what_shots_share() -> None:
    """Two photos of a class share vector a; each has its own b, c; the other class has b."""
    a, b, c = torch.eye(3, dtype=torch.float64)
    patches = torch.stack([torch.stack([a, b]), torch.stack([a, c]), torch.stack([b, b])])
    membership = torch.tensor([[True, False], [True, False], [False, True]])
    prior = torch.ones(3, 2, 2, dtype=torch.float64)
    refined = refined_prior(prior, nearest_similarities(patches), membership)
    assert refined[0, 0].tolist() == [1, 0]
    assert refined[1, 0].tolist() == [1, 0]
    assert refined[2, 1].tolist() == [
        1,
        1,
    ]  # equal evidence: ranks tie at one half, and the maximum is restored


def test_refinement_of_one_photo_changes_nothing() -> None:
    prior = torch.rand(1, 1, 5)
    patches = F.normalize(random(1, 5, 4), dim=-1)
    membership = torch.ones(1, 1, dtype=torch.bool)
    assert torch.equal(refined_prior(prior, nearest_similarities(patches).float(), membership), prior)


def test_photos_with_and_without_masks() -> None:
    patches = torch.randn(3, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    attention = torch.full((3, 2, 4, 4), 1e-3)
    attention[:, :, 1, 1] = 1
    membership = torch.tensor([[True, False], [True, True], [False, True]])
    both = torch.zeros(8, 8, dtype=torch.int64)
    both[:2, :2], both[6:, 6:] = 1, 2
    one = torch.zeros(4, 4, dtype=torch.bool)
    one[3, 0] = True
    support = Support(
        Features(patches=patches, attention=attention), membership, ("cat", "dog"), (None, both, one)
    )
    prior, given = support_prior(support, patches)
    assert given.tolist() == [False, True, True]
    assert prior[0, 0].nonzero().flatten().tolist() == [5]
    assert prior[1, 0].nonzero().flatten().tolist() == [0]
    assert prior[1, 1].nonzero().flatten().tolist() == [15]
    assert prior[2, 1].nonzero().flatten().tolist() == [12]
    assert prior[0, 1].sum() == prior[2, 0].sum() == 0
    wrong = Support(support.features, membership, support.names, (None, torch.where(both == 2, 0, both), one))
    with pytest.raises(InvalidInput, match="dog"):
        support_prior(wrong, patches)


def test_pseudo_masks_of_an_absent_class_are_empty() -> None:
    query, keys = random(2, 3, 4), random(2, 3, 5, 5, 4, seed=1)
    present = torch.tensor([True, False])
    masks = cst_pseudo_masks(query, keys, keys, present, size=(9, 11), threshold=0.4)
    assert torch.equal(masks.query_mask[0], masks.support_mask[0])
    assert not masks.query_mask[1].any()
    assert masks.support_mask[1].any()
    mean = cls_similarity(query, keys, size=(5, 5))
    torch.testing.assert_close(mean, F.cosine_similarity(query[:, :, None, None], keys, dim=-1).mean(1))


def test_enhancer_size() -> None:
    enhancer = PseudoMaskEnhancer(6)
    assert sum(p.numel() for p in enhancer.parameters()) == 155_777  # as published
    similarity = torch.rand(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(PseudoMaskEnhancer(2, 3).double(), (similarity,))


def test_errors_name_the_argument() -> None:
    with pytest.raises(InvalidInput, match="mass"):
        attention_mass_mask(torch.ones(1, 3), mass=0)
    with pytest.raises(InvalidInput, match="attention"):
        attention_mass_mask(torch.tensor([[0.1, -0.1]]))
    with pytest.raises(InvalidInput, match="attention"):
        attention_mass_mask(torch.ones(3))
    with pytest.raises(InvalidInput, match="threshold"):
        cst_pseudo_masks(
            random(1, 1, 2),
            random(1, 1, 2, 2, 2),
            random(1, 1, 2, 2, 2),
            torch.ones(1),
            size=(2, 2),
            threshold=2,
        )
    with pytest.raises(InvalidInput, match="keys"):
        cls_similarity(random(1, 2, 4), random(1, 3, 2, 2, 4), size=(2, 2))
    with pytest.raises(InvalidInput, match="similarity"):
        PseudoMaskEnhancer(3)(torch.rand(1, 2, 4, 4))
    with pytest.raises(InvalidInput, match="heads"):
        PseudoMaskEnhancer(0)
    with pytest.raises(InvalidInput, match="patches"):
        bipartition_prior(torch.ones(1, 4))


def test_an_enhancer_that_is_unsure_still_marks_its_likeliest_patches() -> None:
    sure, unsure = [[0.9, 0.4], [0.6, 0.5]], [[0.3, 0.1], [0.2, 0.14]]
    found = enhanced_masks(torch.tensor([sure, unsure, [[0.0, 0.0], [0.0, 0.0]]]))
    assert found.tolist() == [
        [[True, False], [True, False]],
        [[True, False], [True, False]],
        [[False] * 2] * 2,
    ]
