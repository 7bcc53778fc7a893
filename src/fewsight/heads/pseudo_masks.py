"""Masks without a person: where a self-supervised transformer looks when only labels are given.

- `cst_pseudo_masks`: CST's rule for image-level training (Kang, Koniusz, Cho and Murray, CVPR 2023): patches
  whose key agrees with the class token's query of the support image.
- `PseudoMaskEnhancer`: three convolutions that learn from a few true masks to mend these (sizes as given by the
  first author; the training was never published).
- `attention_mass_mask`: DINO's rule (Caron et al., ICCV 2021): the patches that together hold most attention.
- `attention_prior`, `bipartition_prior`, `mask_prior`, `refined_prior`: how likely each support patch is
  foreground, from attention, from the image's own affinity (TokenCut: Wang et al., CVPR 2022), from a given
  mask, and from the other supports.

Letters: B images, n heads, d head width, h x w patch grid, P patches, D width, S images.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewsight.errors import InvalidInput
from fewsight.heads.head import Support
from fewsight.shapes import check_shapes

__all__ = [
    "PseudoMaskEnhancer",
    "PseudoMasks",
    "attention_is_flat",
    "attention_mass_mask",
    "attention_prior",
    "bipartition_prior",
    "cls_similarity",
    "cst_pseudo_masks",
    "enhanced_masks",
    "head_similarity",
    "mask_prior",
    "nearest_similarities",
    "refined_prior",
    "support_prior",
]


def head_similarity(cls_query: Tensor, keys: Tensor) -> Tensor:
    """Cosine of a class query with the keys of patches, for each head: [B, n, h, w] in [-1, 1].

    Args:
        cls_query: query vectors of the class token in the last block, [B, n, d].
        keys: key vectors of the patches in the last block, of the same or another image, [B, n, h, w, d].
    """
    check_shapes(cls_query=(cls_query, "B n d"), keys=(keys, "B n h w d"))
    query = F.normalize(cls_query, dim=-1, eps=1e-12)
    return torch.einsum("bnd,bnhwd->bnhw", query, F.normalize(keys, dim=-1, eps=1e-12))


def cls_similarity(cls_query: Tensor, keys: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Mean over heads of `head_similarity`, resized bilinearly with corners aligned: [B, H, W] in [-1, 1].

    Args:
        cls_query: [B, n, d].
        keys: [B, n, h, w, d].
        size: (H, W) in pixels.

    Raises:
        InvalidInput: shapes do not fit.
    """
    if min(size) < 1:
        raise InvalidInput(f"size is {tuple(size)}; expected at least one pixel.")
    similarity = head_similarity(cls_query, keys).mean(1, keepdim=True)
    return F.interpolate(similarity, size=tuple(size), mode="bilinear", align_corners=True)[:, 0]


class PseudoMasks(NamedTuple):
    """Foreground of support and query images, bool [B, H, W]."""

    support_mask: Tensor
    query_mask: Tensor


def cst_pseudo_masks(
    cls_query: Tensor,
    support_keys: Tensor,
    query_keys: Tensor,
    present: Tensor,
    *,
    size: tuple[int, int],
    threshold: float = 0.4,
) -> PseudoMasks:
    """Masks of a support image and of a query from the support's class query: (cosine + 1) / 2 > threshold.

    Queries and keys live in different spaces, so the level is a property of the backbone: 0.4 was chosen for
    DINO ViT-S/8. `attention_prior` uses ranks and carries over.

    Args:
        cls_query: class query of the support image, [B, n, d].
        support_keys: patch keys of the support image, [B, n, h, w, d].
        query_keys: patch keys of the query image, [B, n, h', w', d].
        present: whether the class is in the query, bool [B]; where not, its mask is empty.
        size: (H, W) in pixels.
        threshold: in [0, 1].

    Raises:
        InvalidInput: shapes do not fit, or the threshold lies outside [0, 1].
    """
    check_shapes(
        cls_query=(cls_query, "B n d"), present=(present, "B"), support_keys=(support_keys, "B n h w d")
    )
    if not 0 <= threshold <= 1:
        raise InvalidInput(f"threshold is {threshold}; expected a number in [0, 1].")
    support = (cls_similarity(cls_query, support_keys, size=size) + 1) / 2 > threshold
    query = (cls_similarity(cls_query, query_keys, size=size) + 1) / 2 > threshold
    return PseudoMasks(support, query & present.bool()[:, None, None])


class PseudoMaskEnhancer(nn.Sequential):
    """Similarity of each head -> foreground probability of each patch: three 3 x 3 convolutions.

    Input [B, heads, h, w] in [0, 1], that is (cosine + 1) / 2 of `head_similarity`; output [B, h, w]. 155,777
    parameters at 6 heads and width 128 (layers: the first author in the issues of the authors' repository).

    Raises:
        InvalidInput: the input has another number of heads.
    """

    def __init__(self, heads: int, width: int = 128) -> None:
        if heads < 1 or width < 1:
            raise InvalidInput(f"heads and width are {heads} and {width}; expected at least 1.")
        self.heads = heads
        super().__init__(
            nn.Conv2d(heads, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, 1, 3, padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, similarity: Tensor) -> Tensor:
        """See the class."""
        check_shapes(similarity=(similarity, f"B {self.heads} h w"))
        return super().forward(similarity)[:, 0]


def enhanced_masks(probability: Tensor) -> Tensor:
    """Foreground of images from what the enhancer says, bool [B, h, w]: above one half.

    Where no patch reaches one half (a small object, an enhancer that learnt from few masks) the map is divided by its
    largest value first, as `mask_prior` does: a mask without foreground would hide the object from the head.

    Args:
        probability: in [0, 1], [B, h, w].
    """
    largest = probability.amax((1, 2), keepdim=True)
    return probability / torch.where((largest < 0.5) & (largest > 0), largest, 1) > 0.5


def attention_mass_mask(attention: Tensor, *, mass: float = 0.6) -> Tensor:
    """The patches of each head that together hold `mass` of its attention, bool [n, P].

    A patch is kept when the patches not above it hold strictly more than 1 - mass of the whole.
    Differs from DINO's script, where the sort decides by chance between equal values: here they share one fate.

    Args:
        attention: class-token row of the last block without the class column, not negative, [n, P].
        mass: in (0, 1].

    Raises:
        InvalidInput: not two axes, a negative or non-finite value, a head without attention, or a bad mass.

    >>> attention_mass_mask(torch.tensor([[0.1, 0.2, 0.7]]))
    tensor([[False, False,  True]])
    """
    check_shapes(attention=(attention, "n P"))
    if not 0 < mass <= 1:
        raise InvalidInput(f"mass is {mass}; expected a number in (0, 1].")
    if not (attention.isfinite() & (attention >= 0)).all() or not (attention.sum(1) > 0).all():
        raise InvalidInput(
            "attention holds negative, non-finite or only zero values; expected a softmax row."
        )
    ordered, order = attention.double().sort(dim=1, stable=True)
    running = (ordered / ordered.sum(1, keepdim=True)).cumsum(1)
    # Equal values take the running sum of their last: the nearest end of a group at or after each place.
    ends = torch.ones_like(ordered, dtype=torch.bool)
    ends[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    place = torch.arange(ordered.shape[1], device=ordered.device).expand_as(ordered)
    end = torch.where(ends, place, ordered.shape[1]).flip(1).cummin(1).values.flip(1)
    # A running sum that equals 1 - mass is not kept; 1e-12 is beyond the rounding of a sum of shares.
    kept = running.gather(1, end) > 1 - mass + 1e-12
    return torch.empty_like(kept).scatter_(1, order, kept)


def attention_prior(attention: Tensor, *, mass: float = 0.6) -> Tensor:
    """Share of heads that keep each patch by `attention_mass_mask`: [B, n, h, w] -> [B, h, w] in [0, 1].

    Ranks alone decide, so no level has to be found again for another backbone.
    """
    B, n, h, w = check_shapes(attention=(attention, "B n h w")).values()
    kept = attention_mass_mask(attention.reshape(B * n, h * w), mass=mass)
    return kept.view(B, n, h, w).to(attention.dtype).mean(1)


def attention_is_flat(prior_of_heads: Tensor) -> bool:
    """Whether attention tells nothing: the median over heads of the share of kept patches is above one half.

    Nearly uniform attention keeps a share of `mass`, exactly uniform attention keeps all.

    Args:
        prior_of_heads: `attention_mass_mask` of one image, bool [n, P].
    """
    return bool(prior_of_heads.double().mean(1).median() > 0.5)


def bipartition_prior(patches: Tensor, *, threshold: float = 0.2) -> Tensor:
    """Foreground of one image by normalised cut of its own affinity (TokenCut), 0 or 1, [P].

    Edges are 1 where the cosine of two patches exceeds `threshold`, else 1e-5. The second smallest generalised
    eigenvector is cut at its mean; foreground is the side of its largest absolute entry.

    Args:
        patches: [P, D].

    Raises:
        InvalidInput: fewer than two patches.
    """
    sizes = check_shapes(patches=(patches, "P D"))
    if sizes["P"] < 2:
        raise InvalidInput(f"patches has {sizes['P']} rows; expected at least two to cut between.")
    unit = F.normalize(patches.double(), dim=-1)
    edges = torch.where(unit @ unit.T > threshold, 1.0, 1e-5)
    # (D - W) y = λ D y with y = D^-1/2 z: the ordinary problem of the symmetric matrix D^-1/2 W D^-1/2, whose
    # second largest eigenvalue belongs to the second smallest λ.
    scale = edges.sum(1).rsqrt()
    vectors = torch.linalg.eigh(scale[:, None] * edges * scale[None, :]).eigenvectors
    cut = scale * vectors[:, -2]
    side = cut > cut.mean()
    return (side == side[cut.abs().argmax()]).to(patches.dtype)


def mask_prior(mask: Tensor, *, grid: tuple[int, int], void: int | None = 255) -> Tensor:
    """Share of foreground pixels in each patch, void pixels left out: [H, W] -> [h, w] in [0, 1].

    Where no patch reaches one half (a small object) the map is divided by its largest value.

    Args:
        mask: bool, or integers: 0 background, `void` not known, all else foreground.
        grid: (h, w) of the patches that cover the whole image.
        void: None if no value is void.

    Raises:
        InvalidInput: the mask is empty, or holds no foreground.
    """
    check_shapes(mask=(mask, "H W"))
    known = (
        torch.ones_like(mask, dtype=torch.bool) if mask.dtype == torch.bool or void is None else mask != void
    )
    foreground = known & (mask != 0)
    if not foreground.any():
        raise InvalidInput("mask has no foreground; give a mask that marks the object, or none at all.")
    both = torch.stack([foreground, known]).double()
    inside, counted = F.adaptive_avg_pool2d(_divisible(both, grid), grid)
    share = inside / counted.clamp(min=torch.finfo(torch.float64).tiny)
    largest = share.max()
    return (share / largest if largest < 0.5 else share).float()


def _divisible(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Repeat pixels so that the grid divides the size: exact area fractions at patch borders inside a pixel."""
    for axis, cells in ((1, grid[0]), (2, grid[1])):
        size = maps.shape[axis]
        if size % cells:
            times = cells // torch.gcd(torch.tensor(size), torch.tensor(cells)).item()
            maps = maps.repeat_interleave(int(times), dim=axis)
    return maps


def nearest_similarities(patches: Tensor) -> Tensor:
    """Largest similarity of each patch to the patches of each image: [S, P, D] -> [S, S', P].

    Entry [s, t, i] is that of patch i of image s to image t. Give centred unit vectors.
    """
    check_shapes(patches=(patches, "S P D"))
    rows = [torch.stack([(image @ other.T).amax(1) for other in patches]) for image in patches]
    return torch.stack(rows)


def refined_prior(prior: Tensor, nearest: Tensor, membership: Tensor) -> Tensor:
    """Keep what the shots of a class share and drop what classes share, [S, N, P].

    Each prior is multiplied by the rank (0 to 1 over the image's patches, ties at their mean) of [largest
    similarity to patches of the class's other images] - [largest similarity to patches of images without the
    class], then scaled back to its old maximum. The idea is that of Amir et al., "Deep ViT Features as Dense
    Visual Descriptors", 2021 (co-segmentation); the form is ours.

    Args:
        prior: foreground prior of each image for each class, in [0, 1], [S, N, P]; read where the image has it.
        nearest: `nearest_similarities` of the images, [S, S, P].
        membership: bool [S, N].

    Returns:
        The refined prior; unchanged where an image is alone in its class and no image is without the class.

    Raises:
        InvalidInput: shapes do not fit.
    """
    check_shapes(prior=(prior, "S N P"), nearest=(nearest, "S S P"), membership=(membership, "S N"))
    refined = prior.clone()
    for image, way in membership.nonzero().tolist():
        own = membership[:, way].clone()
        own[image] = False
        others = ~membership[:, way]
        if not bool((own | others).any()):
            continue
        evidence = _largest(nearest[image], own) - _largest(nearest[image], others)
        product = prior[image, way] * _mean_rank(evidence)
        largest = product.max()
        if largest > 0:
            refined[image, way] = product * (prior[image, way].max() / largest)
    return refined


def _largest(nearest: Tensor, which: Tensor) -> Tensor:
    """Largest similarity over the images of `which`; 0 where there is none."""
    return nearest[which].amax(0) if bool(which.any()) else torch.zeros_like(nearest[0])


def _mean_rank(values: Tensor) -> Tensor:
    """Position / (P - 1) of each value in ascending order, ties at the mean of their positions: [P] -> [P]."""
    _, group, counts = values.unique(sorted=True, return_inverse=True, return_counts=True)
    last = counts.cumsum(0) - 1
    position = last.to(values.dtype) - (counts - 1).to(values.dtype) / 2
    return position[group] / max(len(values) - 1, 1)


def support_prior(support: Support, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Foreground prior of each support photo for each class, and whether a given mask made it.

    A photo with a mask: the share of its pixels (`mask_prior`); an integer mask marks class k with k + 1, a bool
    mask the photo's class, or all of its classes. Without: `attention_prior`, or `bipartition_prior` where there
    is no attention or it is flat; the same for each class of the photo.

    Args:
        support: of N classes.
        patches: the vectors that are compared, [S, h, w, D].

    Returns:
        Prior [S, N, P], 0 where a photo does not have the class, and bool [S].

    Raises:
        InvalidInput: a mask marks nothing of a class that its photo is labelled with.
    """
    S, h, w, _ = patches.shape
    membership = support.membership
    prior = patches.new_zeros(S, membership.shape[1], h * w)
    given = torch.zeros(S, dtype=torch.bool)
    for image in range(S):
        mask = None if support.masks is None else support.masks[image]
        ways = membership[image].nonzero().flatten().tolist()
        given[image] = mask is not None
        if mask is None:
            attention = support.features.attention
            prior[image, ways] = _label_prior(None if attention is None else attention[image], patches[image])
        else:
            for way in ways:
                prior[image, way] = _class_prior(mask, way, support.names[way], (h, w)).to(prior)
    return prior, given


def _label_prior(attention: Tensor | None, patches: Tensor) -> Tensor:
    """Prior [P] of one photo without a mask."""
    if attention is not None:
        kept = attention_mass_mask(attention.flatten(1))
        if not attention_is_flat(kept):
            return kept.to(patches.dtype).mean(0)
    if patches[..., 0].numel() < 2:
        return patches.new_ones(patches[..., 0].numel())
    return bipartition_prior(patches.flatten(0, 1))


def _class_prior(mask: Tensor, way: int, name: str, grid: tuple[int, int]) -> Tensor:
    """Prior [P] of one class from a bool mask, or from an integer mask (255 = not known)."""
    if mask.dtype != torch.bool:
        # An integer mask of a photo with other classes: only this class counts; void stays void.
        mask = torch.where(mask == 255, 255, (mask == way + 1).int())
    try:
        return mask_prior(mask, grid=grid).flatten()
    except InvalidInput as error:
        raise InvalidInput(f"the mask of a photo of {name!r} marks no pixel of it: {error}") from error
