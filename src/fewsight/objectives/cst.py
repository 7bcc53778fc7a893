"""Losses of CST (Kang, Koniusz, Cho and Murray, "Distilling Self-Supervised Vision Transformers for
Weakly-Supervised Few-Shot Classification and Segmentation", CVPR 2023) and of its pseudo-mask enhancer.

    loss = 0.1 · CE(class logits, presence) + CE(mask logits at image size, target)

Both are means: over the batch, and over batch and pixels. An absent class trains an empty target.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["CSTLoss", "cst_loss", "enhancer_loss"]


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
) -> CSTLoss:
    """Cross entropy of presence and of every pixel.

    Args:
        class_logits: (absent, present), [B, 2].
        mask_logits: (background, foreground), [B, 2, h, w]; resized to `size` bilinearly with corners aligned.
        present: bool or 0/1, [B].
        target: foreground 0/1, [B, H, W].
        size: (H, W) in pixels.
        class_weight: weight of the presence term; 0.1 as published.

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
    mask_loss = F.binary_cross_entropy_with_logits(mask_margin[:, 0], target.to(mask_margin.dtype))
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


def _wide(values: Tensor) -> Tensor:
    """Half precision is lifted to float32; float32 and float64 stay."""
    return values if values.dtype == torch.float64 else values.float()


def _binary(name: str, values: Tensor) -> None:
    if not ((values == 0) | (values == 1)).all():
        raise InvalidInput(f"{name} holds values other than 0 and 1: {values.unique()[:5].tolist()}.")
