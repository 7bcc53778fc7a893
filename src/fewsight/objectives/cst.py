"""Losses of CST (Kang, Koniusz, Cho and Murray, "Distilling Self-Supervised Vision Transformers for
Weakly-Supervised Few-Shot Classification and Segmentation", CVPR 2023) and of its pseudo-mask enhancer.

    loss = 0.1 · CE(class logits, presence) + CE(mask logits at image size, target)

Both are means: over the batch, and over batch and pixels. An absent class trains an empty target. Training is
1-way 1-shot on a frozen backbone: pairs of a support image of a class and a query that may or may not have it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.features import Features, Request
from fewsight.errors import InvalidInput
from fewsight.heads.correlation_head import CorrelationHead
from fewsight.heads.pseudo_masks import attention_prior, cst_pseudo_masks, enhanced_masks, head_similarity
from fewsight.objectives.objective import Batch, Objective, Sampling, Terms
from fewsight.shapes import check_shapes

__all__ = ["CST", "CSTLoss", "JudgedPairs", "cst_loss", "enhancer_loss"]

SUPPORT, QUERY = 0, 1  # `Batch.roles`
VOID = 255


class CSTLoss(NamedTuple):
    """The weighted sum and its two terms; `class_loss` is given without its weight."""

    loss: Tensor
    class_loss: Tensor
    mask_loss: Tensor


def cst_loss(
    class_logits: Tensor,
    mask_logits: Tensor,
    present: Tensor,
    target: Tensor,
    *,
    size: tuple[int, int],
    class_weight: float = 0.1,
    foreground_weight: float = 1.0,
) -> CSTLoss:
    """Cross entropy of presence and of every pixel.

    Args:
        class_logits: (absent, present), [B, 2].
        mask_logits: (background, foreground), [B, 2, h, w]; resized to `size` bilinearly with corners aligned.
        present: bool or 0/1, [B].
        target: foreground 0/1, [B, H, W].
        size: (H, W) in pixels.
        class_weight: weight of the presence term; 0.1 as published.
        foreground_weight: of foreground pixels in the mask term; 1 as published. With w a pixel is called foreground
            from probability 1 / (1 + w) on; an IoU of about one half is largest near a quarter, so 3 suits it.

    Raises:
        InvalidInput: shapes differ, or present or target hold anything but 0 and 1.
    """
    H, W = size
    if min(H, W) < 1:
        raise InvalidInput(f"size is {(H, W)}; expected at least one pixel.")
    check_shapes(
        class_logits=(class_logits, "B 2"),
        mask_logits=(mask_logits, "B 2 h w"),
        present=(present, "B"),
        target=(target, f"B {H} {W}"),
    )
    if not 0 <= class_weight < float("inf"):
        raise InvalidInput(f"class_weight is {class_weight}; expected a finite number of at least 0.")
    if not 0 < foreground_weight < float("inf"):
        raise InvalidInput(f"foreground_weight is {foreground_weight}; expected a positive number.")
    _binary("present", present)
    _binary("target", target)
    # With two classes cross entropy depends on the difference of the logits alone, and resizing is linear:
    # one map is resized in place of two.
    class_margin = _wide(class_logits)
    class_margin = class_margin[:, 1] - class_margin[:, 0]
    mask_margin = _wide(mask_logits)
    mask_margin = F.interpolate(
        mask_margin[:, 1:] - mask_margin[:, :1], size=(H, W), mode="bilinear", align_corners=True
    )
    class_loss = F.binary_cross_entropy_with_logits(class_margin, present.to(class_margin.dtype))
    weight = None if foreground_weight == 1 else mask_margin.new_tensor(foreground_weight)
    mask_loss = F.binary_cross_entropy_with_logits(
        mask_margin[:, 0], target.to(mask_margin.dtype), pos_weight=weight
    )
    return CSTLoss(class_weight * class_loss + mask_loss, class_loss, mask_loss)


def enhancer_loss(enhanced: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross entropy of enhanced pseudo-masks against given ones.

    Differs from: nothing published; the authors did not release the training of the enhancer, this is ours.

    Args:
        enhanced: foreground probability of each patch in [0, 1], [B, h, w].
        target: foreground share of each patch in [0, 1], [B, h, w].

    Raises:
        InvalidInput: shapes differ, or a value lies outside [0, 1].
    """
    check_shapes(enhanced=(enhanced, "B h w"), target=(target, "B h w"))
    for name, values in (("enhanced", enhanced), ("target", target)):
        if not ((values >= 0) & (values <= 1)).all():
            raise InvalidInput(f"{name} holds values outside [0, 1]; expected probabilities.")
    enhanced = _wide(enhanced)
    return F.binary_cross_entropy(enhanced, target.to(enhanced.dtype))


class JudgedPairs(NamedTuple):
    """Of B pairs: whether presence was right, bool [B]; intersection and union of the foreground in pixels [B]; the
    logit of presence [B], and whether the class is there, bool [B]."""

    right: Tensor
    intersection: Tensor
    union: Tensor
    logit: Tensor
    present: Tensor


class CST(Objective):
    """Trains the CST head on pairs; the backbone is frozen and in evaluation mode.

    A batch holds as many supports (role 0) as queries (role 1); the i-th support and the i-th query are a pair.
    `labels` bool [2B, 1] says whether an image has the class of its pair (supports have it). `masks` [2B, H, W]
    holds 1 = that class, 0 = background, 255 = not known; an image that is 255 throughout has no mask, and
    `masks` None means that none has: each image is supervised by what it has. Void pixels of a given mask count
    as background, as published.

    Where a query has no mask its target is a pseudo-mask from the support's class query and the query's keys:
    the patches that hold 60 % of this attention in most heads, or the published rule or the trained enhancer where
    the head was made for these; empty if the class is absent. The enhancer is frozen here (`MaskEnhancement` trains
    it first).
    """

    sampling: Sampling = "episodes"

    def __init__(
        self,
        backbone: Backbone,
        head: CorrelationHead,
        *,
        class_weight: float = 0.1,
        foreground_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder, self.head = backbone.requires_grad_(False), head
        self.class_weight, self.foreground_weight = class_weight, foreground_weight
        if head.enhancer is not None:
            head.enhancer.requires_grad_(False)
        self.request = head.request.joined(Request(keys=True, class_query=True))
        self._exact = torch.zeros(())

    def backbone(self) -> nn.Module:
        """The frozen encoder."""
        return self.encoder

    def train(self, mode: bool = True) -> CST:
        """Training mode for the head alone."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, batch: Batch) -> Terms:
        """`class` (weighted) and `mask` losses of the pairs.

        Raises:
            InvalidInput: labels or roles are missing, or supports and queries are not as many.
        """
        class_logits, mask_logits, present, target = self._answered(batch)
        self._exact = ((class_logits[:, 1] > class_logits[:, 0]) == present).float().mean().detach()
        size = (target.shape[1], target.shape[2])
        found = cst_loss(
            class_logits, mask_logits, present, target, size=size, foreground_weight=self.foreground_weight
        )
        return Terms({"class": found.class_loss, "mask": found.mask_loss}, {"class": self.class_weight})

    @torch.no_grad()
    def judged(self, batch: Batch) -> JudgedPairs:
        """How right the head is on some pairs, against what they are supervised by (masks, or pseudo-masks)."""
        class_logits, mask_logits, present, target = self._answered(batch)
        margin = F.interpolate(
            mask_logits[:, 1:] - mask_logits[:, :1],
            size=target.shape[1:],
            mode="bilinear",
            align_corners=True,
        )
        said, true = margin[:, 0] >= 0, target.bool()
        logit = class_logits[:, 1] - class_logits[:, 0]
        return JudgedPairs(
            (logit > 0) == present, (said & true).sum((1, 2)), (said | true).sum((1, 2)), logit, present
        )

    def _answered(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Class and mask logits of the pairs, presence bool [B], target bool [B, H, W]."""
        if batch.labels is None or batch.roles is None:
            raise InvalidInput("CST needs labels and roles; make batches of pairs.")
        is_query = batch.roles == QUERY
        supports, queries = self._encode(batch, is_query)
        if supports.num_images != queries.num_images:
            raise InvalidInput(f"roles has {supports.num_images} supports and {queries.num_images} queries.")
        present = batch.labels[is_query].bool().flatten()
        given = (None, None) if batch.masks is None else (batch.masks[~is_query], batch.masks[is_query])
        with torch.no_grad():
            support_mask = _completed(given[0], self.head.guess_masks(supports))
            guessed = None if _all_given(given[1]) else self._query_masks(supports, queries, present)
            target = _completed(given[1], guessed)
        assert target is not None
        class_logits, mask_logits = self.head(queries, supports, support_mask)
        return class_logits, mask_logits, present, target

    def _encode(self, batch: Batch, is_query: Tensor) -> tuple[Features, Features]:
        if batch.features is not None:
            return batch.features.rows(~is_query), batch.features.rows(is_query)
        images = batch.images[0]
        with torch.no_grad():
            return self.encoder.encode_episode(images[~is_query], images[is_query], self.request)

    def _query_masks(self, supports: Features, queries: Features, present: Tensor) -> Tensor:
        """Pseudo-masks of queries, bool [B, h, w] at patch resolution (published: as large as it prescribes)."""
        query, keys = supports.class_query, queries.keys
        if query is None or keys is None or supports.keys is None:
            raise InvalidInput(
                "the features hold no keys and class query; ask with the objective's `request`."
            )
        if self.head.enhancer is not None:
            enhanced: Tensor = self.head.enhancer((head_similarity(query, keys) + 1) / 2)
            return enhanced_masks(enhanced) & present[:, None, None]
        if self.head.pseudo_masks == "published":
            return cst_pseudo_masks(query, supports.keys, keys, present, size=(400, 400)).query_mask
        logits = torch.einsum("bnd,bnhwd->bnhw", query, keys) / query.shape[-1] ** 0.5
        attention = logits.flatten(2).softmax(-1).view_as(logits)
        return (attention_prior(attention) >= 0.5) & present[:, None, None]

    def watched(self) -> dict[str, Tensor]:
        """Share of pairs whose presence was right in the last batch."""
        return {"exact_ratio": self._exact}


def _all_given(masks: Tensor | None) -> bool:
    return masks is not None and not bool((masks == VOID).flatten(1).all(1).any())


def _completed(given: Tensor | None, guessed: Tensor | None) -> Tensor | None:
    """Given masks, with guesses (nearest resampling) where an image has none; bool [B, H, W].

    No guess and no mask: everything is seen.
    """
    if given is None:
        return guessed
    without = (given == VOID).flatten(1).all(1)
    masks = (given != VOID) & (given != 0)
    if not bool(without.any()):
        return masks
    if guessed is None:
        other = torch.ones_like(masks)
    else:
        other = F.interpolate(guessed[:, None].float(), size=masks.shape[1:])[:, 0] > 0.5
    return torch.where(without[:, None, None], other, masks)


def _wide(values: Tensor) -> Tensor:
    """Half precision is lifted to float32; float32 and float64 stay."""
    return values if values.dtype == torch.float64 else values.float()


def _binary(name: str, values: Tensor) -> None:
    if not ((values == 0) | (values == 1)).all():
        raise InvalidInput(f"{name} holds values other than 0 and 1: {values.unique()[:5].tolist()}.")
