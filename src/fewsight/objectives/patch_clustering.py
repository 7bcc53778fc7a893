"""The patch term that iBOT and the joined framework share: tokens of one view, student against teacher.

Heads of tokens that do not count are never run: masked rows are picked before the student's head, and before the
teacher's prototypes. The centre of all teacher patches is exact nevertheless, as the prototype layer is linear: the
mean of its logits is what it makes of the mean row.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fewsight.objectives.assignments import assign_patches
from fewsight.objectives.blocks import full_precision
from fewsight.objectives.collapse import CollapseAvoidance
from fewsight.objectives.cross_entropy import mean_cross_entropy, patch_cross_entropy
from fewsight.objectives.projection_heads import ClusterHead

__all__ = ["patch_term"]


def patch_term(
    student: ClusterHead,
    teacher: ClusterHead,
    student_tokens: Tensor,
    teacher_tokens: Tensor,
    mask: Tensor,
    avoidance: CollapseAvoidance,
    *,
    student_temperature: float,
    teacher_temperature: float,
    which: Literal["all", "masked"] = "masked",
) -> Tensor:
    """Cross-entropy of patch assignments, and the teacher's patches counted towards the next centre.

    Args:
        student_tokens, teacher_tokens: `[G, B, N, D]`; the student's carry gradient.
        mask: bool `[G, B, N]`, True = masked or corrupted in the student's view.
        which: `masked`: mean over the masked patches of each image, then over images (iBOT); `all`: mean over all.

    Returns:
        Scalar, equal to the patch terms of `ibot_loss` and `masked_clustering_loss`.
    """
    with torch.no_grad():
        rows = teacher.rows(teacher_tokens)  # [G, B, N, bottleneck]
        with full_precision(rows):
            total = teacher.of_patch_rows(rows.flatten(0, -2).sum(0, keepdim=True))[0]
        avoidance.observe_sum(total, rows.shape[:-1].numel())
        per_position = avoidance.assignment == "sinkhorn"  # balanced over the images at each position
        chosen = rows if which == "all" or per_position else rows[mask]
        scores = teacher.of_patch_rows(chosen)
        if per_position:
            targets = assign_patches(scores, "sinkhorn", teacher_temperature, None, avoidance.iterations)
        else:
            targets = avoidance.targets(scores, teacher_temperature)
    if which == "all":
        logits = student.of_patch_rows(student.rows(student_tokens))
        return mean_cross_entropy(logits, targets, student_temperature)
    logits = student.of_patch_rows(student.rows(student_tokens[mask]))
    return patch_cross_entropy(logits, targets[mask] if per_position else targets, mask, student_temperature)
