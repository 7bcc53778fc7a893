"""CST as a head: conditioned once on the supports, then any number of queries, each encoded once.

The mathematics is in `correlation.py` (Kang, Koniusz, Cho and Murray, CVPR 2023). Conditioning reduces every
support image to 1 + g² unit vectors of each block and head (2.7 MB at ViT-S/8) and drops those that its mask
hides; a query is correlated with these in bounded memory.

Letters: Q queries, S support images, N classes, R rows (pairs of support image and class), L blocks, n heads,
C = n L channels, d = D / n, g reduced support grid, H x W output pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.features import BlockTokens, Features, Request
from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.heads.correlation import CorrelationTransformer, MaskReduction, support_directions
from fewsight.heads.head import Head, Segmented, Support
from fewsight.heads.pseudo_masks import (
    PseudoMaskEnhancer,
    attention_prior,
    bipartition_prior,
    cls_similarity,
    enhanced_masks,
    head_similarity,
)

__all__ = ["ConditionedCorrelation", "CorrelationHead"]

ROWS = 4
"""Support rows that one query is compared with at a time: about 60 MiB at 400 px."""

PseudoMask = Literal["attention", "published", "enhanced", "none"]


class CorrelationHead(Head):
    """The CST head with everything around it.

    Args:
        num_heads: attention heads n of the backbone.
        blocks: which block outputs are correlated; `num_blocks` of them.
        num_blocks: L.
        widths, pools: of the two blocks; the support grid is the product of the pools.
        mask_reduction: `"area"`: a support token is seen where any pixel of its cell is foreground; `"points"`:
            the published point sampling, for published checkpoints.
        pseudo_masks: what stands in for the mask of a support image without one. `"attention"`: patches that most
            heads of the class token attend to; `"published"`: cosine of class query and keys above -0.2, a level
            found for DINO ViT-S/8; `"enhanced"`: that of the trained enhancer; `"none"`: everything is seen.
        shots: `"average"` of the answers of a class's images, as published, or `"joint"` attention over all of
            them (`CorrelationTransformer.correlate_jointly`), which costs little more than one.

        centred_width: D, to take a fixed vector from the tokens of each block before they become directions (the mean
            patch of the training photos, `centre_on`): cosines of a network whose tokens have a strong common direction
            are all high, and the head learns several times faster without it. 0 = not, as published.
        calibration: (a, b) of presence = sigmoid(a · logit + b), found on classes held out of training.

    Differs from the authors' code in the defaults of `mask_reduction` and `pseudo_masks`; `published` restores
    them.
    """

    def __init__(
        self,
        num_heads: int,
        num_blocks: int,
        *,
        blocks: tuple[int, ...] | Literal["all"] = "all",
        widths: Sequence[int] = (32, 128),
        pools: Sequence[int] = (4, 3),
        mask_reduction: MaskReduction = "area",
        pseudo_masks: PseudoMask = "attention",
        shots: Literal["average", "joint"] = "average",
        centred_width: int = 0,
        calibration: tuple[float, float] = (1.0, 0.0),
    ) -> None:
        super().__init__()
        if shots not in ("average", "joint"):
            raise InvalidInput(f"shots is {shots!r}; expected 'average' or 'joint'.")
        if pseudo_masks not in ("attention", "published", "enhanced", "none"):
            raise InvalidInput(
                f"pseudo_masks is {pseudo_masks!r}; expected 'attention', 'published', 'enhanced' or 'none'."
            )
        self.num_heads, self.num_blocks = num_heads, num_blocks
        self.pseudo_masks, self.shots = pseudo_masks, shots
        self.learner = CorrelationTransformer(
            num_heads * num_blocks, widths, pools, mask_reduction=mask_reduction
        )
        self.calibration = (float(calibration[0]), float(calibration[1]))
        self.centred_width = centred_width
        if centred_width:
            self.register_buffer("centre", torch.zeros(num_blocks, centred_width))
        self.enhancer = PseudoMaskEnhancer(num_heads) if pseudo_masks == "enhanced" else None
        by_keys = pseudo_masks in ("published", "enhanced")
        self.request = Request(
            blocks=blocks, attention=pseudo_masks == "attention", keys=by_keys, class_query=by_keys
        )

    @classmethod
    def for_backbone(cls, backbone: Backbone, **settings: Any) -> CorrelationHead:
        """A head for all blocks of `backbone`, with pools that fit the grid of its usual input.

        `centred_width=-1` stands for the backbone's width.

        Raises:
            InvalidInput: the backbone has no blocks or attention heads.
        """
        if backbone.num_heads < 1 or backbone.depth < 1:
            raise InvalidInput(f"{backbone.name} has no attention blocks; CST needs a vision transformer.")
        side = min(backbone.image_size) // backbone.stride
        pools = (4, 3) if side >= 12 else (2, 4) if side >= 8 else (3, 2)
        if settings.get("centred_width") == -1:
            settings["centred_width"] = backbone.dim
        return cls(backbone.num_heads, backbone.depth, **{"pools": pools, **settings})

    @classmethod
    def published(cls) -> CorrelationHead:
        """The authors' head for DINO ViT-S/8, for their checkpoints (`load_published`)."""
        return cls(6, 12, mask_reduction="points", pseudo_masks="published")

    def load_published(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take the weights of a published checkpoint: its keys under `learner.`; all others are left out.

        Raises:
            IncompatibleModel: keys or shapes differ.
        """
        own = {
            name.removeprefix("learner."): t for name, t in state_dict.items() if name.startswith("learner.")
        }
        try:
            self.learner.load_state_dict(own or dict(state_dict))
        except RuntimeError as error:
            raise IncompatibleModel(f"the checkpoint does not hold this CST head: {error}") from error

    def forward(self, queries: Features, supports: Features, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits of pairs, query i with support i: what training needs.

        Args:
            queries: of B images.
            supports: of B images.
            masks: 0 = background, [B, Y, X]; None: pseudo-masks.

        Returns:
            Class logits [B, 2] and mask logits [B, 2, 2h, 2w].
        """
        if masks is None:
            guessed = self.guess_masks(supports)
            seen = None if guessed is None else self.learner.reduce_mask(guessed)
        else:
            seen = self.learner.reduce_mask(masks)
        return self.learner.correlate(self._blocks(queries).patches, self.reduce(supports), seen)

    def reduce(self, supports: Features) -> Tensor:
        """Directions of support images, [S, C, 1 + g², d].

        A backbone without class token has the mean of its patches in that place.
        """
        tokens = self._blocks(supports)
        cls = tokens.cls if tokens.cls is not None else tokens.patches.mean((2, 3))
        grid = (self.learner.support_grid,) * 2
        return support_directions(cls, tokens.patches, heads=self.num_heads, support_grid=grid)

    def guess_masks(self, images: Features) -> Tensor | None:
        """Foreground of support images from what their request brought, bool [S, y, x]; None: everything."""
        if self.pseudo_masks == "none":
            return None
        if self.pseudo_masks == "attention":
            if images.attention is not None:
                return attention_prior(images.attention) >= 0.5
            tokens = images.patches if images.patches is not None else self._blocks(images).patches[:, -1]
            maps = [bipartition_prior(image.flatten(0, 1)).view(image.shape[:2]) for image in tokens]
            return torch.stack(maps) > 0
        if images.class_query is None or images.keys is None:
            raise InvalidInput(
                f"the features hold no keys and class query; pseudo_masks={self.pseudo_masks!r} needs both."
            )
        if self.enhancer is None:
            # Points are read at the published image size; from its values on, all else is a mask like any other.
            return (cls_similarity(images.class_query, images.keys, size=(400, 400)) + 1) / 2 > 0.4
        return enhanced_masks(self.enhancer((head_similarity(images.class_query, images.keys) + 1) / 2))

    def condition(self, support: Support) -> ConditionedCorrelation:
        """Reduce each support image once; images with a mask and images without may be mixed.

        Raises:
            InvalidInput: block outputs are missing, or a mask marks nothing of a class that its photo has.
        """
        with torch.no_grad():
            directions = self.reduce(support.features)
            guessed = self.guess_masks(support.features)
            pairs = support.membership.nonzero()
            seen = [self._seen(support, guessed, image, way) for image, way in pairs.tolist()]
        stacked = tuple(torch.stack(level).to(directions.device) for level in zip(*seen, strict=True))
        return ConditionedCorrelation(self, support.names, directions, pairs[:, 0], pairs[:, 1], stacked)

    def restore(self, names: Sequence[str], state: Mapping[str, Tensor]) -> ConditionedCorrelation:
        """The conditioned head that `ConditionedCorrelation.state` was taken from."""
        levels = [f"seen.{i}" for i in range(len(self.learner.pools))]
        missing = {"directions", "images", "ways", *levels} - set(state)
        if missing:
            raise IncompatibleModel(f"the CST state lacks {', '.join(sorted(missing))}.")
        ways = state["ways"].long()
        if sorted(set(ways.tolist())) != list(range(len(names))):
            raise IncompatibleModel(f"the CST state does not fit {len(names)} classes.")
        dtype = self.learner.linear.get_parameter("0.weight").dtype
        return ConditionedCorrelation(
            self,
            tuple(names),
            state["directions"].to(dtype),
            state["images"].long(),
            ways,
            tuple(state[level].bool() for level in levels),
        )

    def _blocks(self, features: Features) -> BlockTokens:
        if features.blocks is None:
            raise InvalidInput(
                "the features hold no block outputs; ask the backbone with the head's `request`."
            )
        if not self.centred_width:
            return features.blocks
        cls, patches = features.blocks
        centre = self.get_buffer("centre").to(patches.dtype)
        return BlockTokens(None if cls is None else cls - centre, patches - centre[:, None, None])

    def centre_on(self, images: Features) -> None:
        """Set the vector that is taken from tokens: the mean patch of each block over some images.

        Raises:
            InvalidInput: the head was not made for that, or the features hold no block outputs of its width.
        """
        blocks = images.blocks
        if not self.centred_width or blocks is None or blocks.patches.shape[-1] != self.centred_width:
            raise InvalidInput("the head has no centred_width, or the features do not fit it.")
        self.get_buffer("centre").copy_(blocks.patches.mean((0, 2, 3)))

    def _seen(self, support: Support, guessed: Tensor | None, image: int, way: int) -> tuple[Tensor, ...]:
        """Seen tokens of one pair at the input of each block."""
        mask = None if support.masks is None else support.masks[image]
        if mask is None:
            mask = torch.ones(1, 1, dtype=torch.bool) if guessed is None else guessed[image]
        else:
            mask = mask if mask.dtype == torch.bool else mask == way + 1
            if not bool(mask.any()):
                raise InvalidInput(
                    f"the mask of a photo of {support.names[way]!r} marks no pixel of it; give a mask that marks "
                    "the object, or none at all."
                )
        return tuple(level[0] for level in self.learner.reduce_mask(mask[None]))


@dataclass(frozen=True)
class ConditionedCorrelation:
    """Reduced supports: a value.

    Attributes:
        directions: unit vectors of the support images, [S, C, 1 + g², d].
        images: support image of each row, [R].
        ways: class of each row, [R].
        seen: seen support tokens at the input of each block, bool [R, g²], [R, (g/k)²].
    """

    head: CorrelationHead
    names: tuple[str, ...]
    directions: Tensor
    images: Tensor
    ways: Tensor
    seen: tuple[Tensor, ...]

    def scores(self, queries: Features) -> Tensor:
        """Probability of presence, `[Q, N]`."""
        return self.segment(queries, (1, 1)).presence

    @torch.no_grad()
    def segment(self, queries: Features, size: tuple[int, int]) -> Segmented:
        """Presence [Q, N] (present above 0.5) and foreground [Q, N, H, W] (foreground from 0.5 on).

        Probabilities are averaged over the shots of each class, as published, or come from all shots at once where the
        head joins them; `label_map` makes the map.
        """
        patches = self.head._blocks(queries).patches
        presence = patches.new_zeros(len(patches), len(self.names))
        foreground = patches.new_zeros(len(patches), len(self.names), *size)
        for query in range(len(patches)):
            for rows in self._groups:
                self._add(presence[query], foreground[query], patches[query : query + 1], rows)
        return Segmented(presence, foreground)

    def _add(self, presence: Tensor, foreground: Tensor, patches: Tensor, rows: Tensor) -> None:
        """Add the share of some rows to the means over shots of one query; joined rows are all shots of a class."""
        seen = [level[rows] for level in self.seen]
        directions = self.directions[self.images[rows]]
        if self.head.shots == "joint":
            class_logits, mask_logits = self.head.learner.correlate_jointly(patches, directions, seen)
            ways, weight = self.ways[rows[:1]], directions.new_ones(1)
        else:
            class_logits, mask_logits = self.head.learner.correlate(patches, directions, seen)
            ways, weight = self.ways[rows], self._weights[rows]
        slope, shift = self.head.calibration
        present = (slope * (class_logits[:, 1] - class_logits[:, 0]) + shift).sigmoid()
        presence.index_add_(0, ways, (present * weight).to(presence.dtype))
        margin = mask_logits[:, 1:] - mask_logits[:, :1]
        maps = F.interpolate(margin, size=foreground.shape[1:], mode="bilinear", align_corners=True)[:, 0]
        foreground.index_add_(0, ways, (maps.sigmoid() * weight[:, None, None]).to(foreground.dtype))

    @cached_property
    def _groups(self) -> tuple[Tensor, ...]:
        """Rows that are compared together: of one class where shots are joined, else `ROWS` at a time.

        Rows are ordered by their number of seen tokens, so that they need little padding.
        """
        if self.head.shots == "joint":
            return tuple((self.ways == way).nonzero().flatten() for way in range(len(self.names)))
        return self.seen[0].sum(1).argsort(stable=True).split(ROWS)

    @cached_property
    def _weights(self) -> Tensor:
        """One over the shots of each row's class, [R]."""
        shots = torch.bincount(self.ways, minlength=len(self.names))
        return 1 / shots[self.ways].to(self.directions.dtype)

    def with_class(self, name: str, features: Features) -> ConditionedCorrelation:
        """The same with one more class, its column last; its photos have labels only.

        Raises:
            InvalidInput: the class is there already.
        """
        if name in self.names:
            raise InvalidInput(f"there is a class {name!r} already; remove it first, or choose another name.")
        membership = torch.ones(features.num_images, 1, dtype=torch.bool)
        new = self.head.condition(Support(features, membership, (name,)))
        return replace(
            self,
            names=(*self.names, name),
            directions=torch.cat([self.directions, new.directions]),
            images=torch.cat([self.images, new.images + len(self.directions)]),
            ways=torch.cat([self.ways, new.ways + len(self.names)]),
            seen=tuple(torch.cat(both) for both in zip(self.seen, new.seen, strict=True)),
        )

    def without_class(self, name: str) -> ConditionedCorrelation:
        """The same without one class; images that belong to no other class go with it.

        Raises:
            InvalidInput: there is no such class, or it is the only one.
        """
        if name not in self.names or len(self.names) == 1:
            raise InvalidInput(f"class {name!r} cannot be removed from {list(self.names)}.")
        column = self.names.index(name)
        rows = self.ways != column
        kept, images = self.images[rows].unique(return_inverse=True)
        ways = self.ways[rows]
        return replace(
            self,
            names=tuple(other for other in self.names if other != name),
            directions=self.directions[kept],
            images=images,
            ways=ways - (ways > column).long(),
            seen=tuple(level[rows] for level in self.seen),
        )

    def state(self) -> Mapping[str, Tensor]:
        """Tensors for a model folder; directions in half precision (1.3 MB an image at ViT-S/8)."""
        levels = {f"seen.{i}": level for i, level in enumerate(self.seen)}
        return {"directions": self.directions.half(), "images": self.images, "ways": self.ways, **levels}
