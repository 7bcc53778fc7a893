"""iBOT: self-distillation of class tokens across views and of masked patch tokens within a view.

Zhou, Wei, Wang, Shen, Xie, Yuille, Kong: iBOT: Image BERT Pre-Training with Online Tokenizer (ICLR 2022),
section 3.

    class   as DINO; the student's global views are masked
    patch   p'_i = softmax((t'_i - c') / T'),  loss of an image = mean over its masked patches of H(p'_i, q'_i),
            then the mean over all images and views; an image without a masked patch counts as 0

Both centres average all tokens, masked or not (`update_center`).
Differs from the authors' code: other means against collapse can take the place of centring; only masked rows
are normalised.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fewsight.objectives.assignments import AssignmentMethod, assign, assign_patches
from fewsight.objectives.cross_entropy import patch_cross_entropy, view_cross_entropy
from fewsight.objectives.ranges import check_positive
from fewsight.shapes import check_shapes

__all__ = ["IbotLosses", "ibot_loss", "masked_patch_loss"]


class IbotLosses(NamedTuple):
    """Scalar losses of class tokens and of masked patch tokens, unweighted."""

    cls_loss: Tensor
    patch_loss: Tensor


def ibot_loss(
    student_cls: Tensor,
    teacher_cls: Tensor,
    student_patches: Tensor,
    teacher_patches: Tensor,
    mask: Tensor,
    center: Tensor | None,
    patch_center: Tensor | None,
    student_temperature: float,
    teacher_temperature: float,
    teacher_patch_temperature: float,
    *,
    method: AssignmentMethod = "centring",
    patch_method: AssignmentMethod = "centring",
    iterations: int = 3,
) -> IbotLosses:
    """Class loss over pairs of views and patch loss over masked patches, to be weighted by the caller.

    Args:
        student_cls: logits `[V, B, K]`, the G masked global views first.
        teacher_cls: logits `[G, B, K]` of the clean global views.
        student_patches, teacher_patches: logits `[G, B, N, P]`.
        mask: `[G, B, N]`, True or 1 = masked in the student's view.
        center, patch_center: `[K]`, `[P]`; None unless the method is `centring`.
        student_temperature, teacher_temperature, teacher_patch_temperature: above 0.
        method, patch_method: against collapse, of class and of patch tokens.

    Raises:
        InvalidInput: wrong shapes or ranges.
    """
    check_shapes(
        student_cls=(student_cls, "V B K"),
        teacher_cls=(teacher_cls, "G B K"),
        student_patches=(student_patches, "G B N P"),
        teacher_patches=(teacher_patches, "G B N P"),
        mask=(mask, "G B N"),
    )
    check_positive(
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
        teacher_patch_temperature=teacher_patch_temperature,
    )
    if patch_center is not None:
        check_shapes(student_patches=(student_patches, "G B N P"), patch_center=(patch_center, "P"))
    targets = assign(teacher_cls, method, teacher_temperature, center, iterations)
    cls_loss = view_cross_entropy(student_cls, targets, student_temperature)
    patch_loss = masked_patch_loss(
        student_patches,
        teacher_patches,
        mask,
        patch_center,
        student_temperature,
        teacher_patch_temperature,
        method=patch_method,
        iterations=iterations,
    )
    return IbotLosses(cls_loss, patch_loss)


def masked_patch_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    center: Tensor | None,
    student_temperature: float,
    teacher_temperature: float,
    *,
    method: AssignmentMethod = "centring",
    iterations: int = 3,
) -> Tensor:
    """The patch term alone: student and teacher logits `[..., N, P]`, mask `[..., N]`."""
    mask = mask.bool()
    if method == "sinkhorn":
        targets = assign_patches(teacher, method, teacher_temperature, center, iterations)[mask]
    else:
        targets = assign(teacher[mask], method, teacher_temperature, center, iterations)
    return patch_cross_entropy(student[mask], targets, mask, student_temperature)
