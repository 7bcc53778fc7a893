"""Masked image modelling and clustering joined: the low-shot framework.

Nandam, Atito, Feng, Kittler, Awais: Investigating Self-Supervised Methods for Label-Efficient Learning
(IJCV 2025), in the executable form of MC-SSL (Atito, Awais, Kittler; arXiv 2111.15340). The student sees
corrupted global views and clean local ones, the teacher clean global views:

    class            DINO over pairs of views
    patch            H(teacher, student) of the same view and position, over all patches (MC-SSL) or over
                     corrupted ones (iBOT's rule)
    reconstruction   mean error of the corrupted pixels of all global views, pooled

Three terms, weighted by the caller; a weight of 0 removes one: (1, 0, 0) is DINO on corrupted views, (0, 0, 1)
is GMML. Centres are updated after the step by `update_center`.

Differs from MC-SSL's code: any number of views; means against collapse other than centring; the patch and pixel
rules are settings.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.objectives.assignments import AssignmentMethod, assign, assign_patches
from fewsight.objectives.cross_entropy import mean_cross_entropy, view_cross_entropy
from fewsight.objectives.gmml import masked_pixel_loss
from fewsight.objectives.ibot import masked_patch_loss
from fewsight.objectives.ranges import check_choice, check_positive
from fewsight.shapes import check_shapes

__all__ = ["MaskedClusteringLosses", "masked_clustering_loss"]


class MaskedClusteringLosses(NamedTuple):
    """The three scalar terms, unweighted."""

    cls_loss: Tensor
    patch_loss: Tensor
    reconstruction_loss: Tensor


def masked_clustering_loss(
    student_cls: Tensor,
    teacher_cls: Tensor,
    student_patches: Tensor,
    teacher_patches: Tensor,
    reconstruction: Tensor,
    images: Tensor,
    mask: Tensor,
    center: Tensor | None,
    patch_center: Tensor | None,
    student_temperature: float,
    teacher_temperature: float,
    patch_targets: Literal["all", "masked"] = "all",
    patch_mask: Tensor | None = None,
    reconstruction_error: Literal["l1", "l2"] = "l2",
    *,
    method: AssignmentMethod = "centring",
    patch_method: AssignmentMethod = "centring",
    iterations: int = 3,
) -> MaskedClusteringLosses:
    """Class, patch and reconstruction loss of one batch.

    Args:
        student_cls: logits `[V, B, K]`, the G corrupted global views first.
        teacher_cls: logits `[G, B, K]`.
        student_patches, teacher_patches: logits `[G, B, N, P]`.
        reconstruction, images: `[G, B, C, H, W]`, prediction and clean picture in normalised pixel units.
        mask: `[G, B, H, W]`, True or 1 = corrupted pixel.
        center, patch_center: `[K]`, `[P]`; None unless the method is `centring`.
        student_temperature, teacher_temperature: above 0; both serve class and patch tokens.
        patch_targets: which patches count; `masked` needs `patch_mask` `[G, B, N]`.
        reconstruction_error: absolute (`l1`) or squared (`l2`).
        method, patch_method: against collapse, of class and of patch tokens.

    Raises:
        InvalidInput: wrong shapes or ranges, a patch mask that is missing.
    """
    sizes = check_shapes(
        student_cls=(student_cls, "V B K"),
        teacher_cls=(teacher_cls, "G B K"),
        student_patches=(student_patches, "G B N P"),
        teacher_patches=(teacher_patches, "G B N P"),
        images=(images, "G B C H W"),
        mask=(mask, "G B H W"),
    )
    if patch_center is not None:
        check_shapes(student_patches=(student_patches, "G B N P"), patch_center=(patch_center, "P"))
    check_choice(("all", "masked"), patch_targets=patch_targets)
    check_choice(("l1", "l2"), reconstruction_error=reconstruction_error)
    check_positive(student_temperature=student_temperature, teacher_temperature=teacher_temperature)
    targets = assign(teacher_cls, method, teacher_temperature, center, iterations)
    cls_loss = view_cross_entropy(student_cls, targets, student_temperature)
    if patch_targets == "all":
        targets = assign_patches(teacher_patches, patch_method, teacher_temperature, patch_center, iterations)
        patch_loss = mean_cross_entropy(student_patches, targets, student_temperature)
    else:
        if patch_mask is None:
            raise InvalidInput("patch_mask is missing; patch_targets 'masked' needs one of shape [G, B, N].")
        check_shapes(patch_mask=(patch_mask, f"{sizes['G']} {sizes['B']} {sizes['N']}"))
        patch_loss = masked_patch_loss(
            student_patches,
            teacher_patches,
            patch_mask,
            patch_center,
            student_temperature,
            teacher_temperature,
            method=patch_method,
            iterations=iterations,
        )
    pixel_loss = masked_pixel_loss(reconstruction, images, mask, reconstruction_error)
    return MaskedClusteringLosses(cls_loss, patch_loss, pixel_loss)
