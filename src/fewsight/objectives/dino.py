"""DINO: self-distillation without labels.

Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin: Emerging Properties in Self-Supervised Vision
Transformers (ICCV 2021), sections 3.1 and 3.2. A student learns to give, on every view, the assignment that a
moving average of itself gives on another global view.

    p_g = softmax((t_g - c) / teacher_temperature),   q_v = softmax(s_v / student_temperature)
    L   = 1 / (G V - G)  sum over g, v != g of  mean over images of  H(p_g, q_v)

The centre c takes part in its own step only after the loss: `fewsight.objectives.assignments.update_center`.

Differs from the authors' code: the loss never changes the centre; other means against collapse can take the
place of centring; local crops meet the sum of the teacher's targets once (same value, fewer passes).

`koleo_weight` adds what DINOv2 adds (Oquab et al., TMLR 2024, section 4): each class token of a global view is kept
away from its nearest neighbour among the other images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.objectives.assignments import AssignmentMethod, assign, distinct_rows, koleo
from fewsight.objectives.crops import checked_views, crop_views, vectors
from fewsight.objectives.cross_entropy import streamed_view_cross_entropy, view_cross_entropy
from fewsight.objectives.distillation import ClusterSettings, Distillation, cluster_head
from fewsight.objectives.objective import Batch, Terms
from fewsight.objectives.ranges import check_positive
from fewsight.shapes import check_shapes

__all__ = ["Dino", "DinoSettings", "dino_loss"]

GLOBAL_VIEWS = 2


def dino_loss(
    student: Tensor,
    teacher: Tensor,
    center: Tensor | None,
    student_temperature: float,
    teacher_temperature: float,
    *,
    method: AssignmentMethod = "centring",
    iterations: int = 3,
    overwrite: bool = False,
) -> Tensor:
    """Cross-entropy of student views against the teacher's assignments of the other global views.

    Args:
        student: logits `[V, B, K]`, the G global views first, view-major; carries gradient.
        teacher: logits `[G, B, K]` of the global views; carries none.
        center: `[K]` from before this step; None unless `method` is `centring`.
        student_temperature, teacher_temperature: above 0; published 0.1 and 0.04 to 0.07.
        method: against collapse; Sinkhorn assigns all global views together, with `iterations`.
        overwrite: give `student` away: its memory becomes that of its gradient, so that the loss needs none. For logits
            that were computed and are used nowhere else; autograd refuses other uses. Not with Sinkhorn.

    Returns:
        Scalar; ln K when nothing is learnt.

    Raises:
        InvalidInput: wrong shapes or ranges, no pair of different views.

    >>> import torch
    >>> round(dino_loss(torch.zeros(3, 2, 8), torch.zeros(2, 2, 8), torch.zeros(8), 0.1, 0.04).item(), 4)
    2.0794
    """
    check_positive(student_temperature=student_temperature, teacher_temperature=teacher_temperature)
    if method == "sinkhorn":
        targets = assign(teacher, method, teacher_temperature, center, iterations)
        return view_cross_entropy(student, targets, student_temperature)
    check_shapes(student=(student, "V B K"), teacher=(teacher, "G B K"))
    teacher = teacher.detach()
    # The caller may move its centre before the backward pass.
    center = None if center is None else center.detach().clone()

    def targets_of(rows: slice) -> Tensor:
        return assign(teacher[:, rows], method, teacher_temperature, center)

    targets_of(slice(0, 0))  # wrong settings are told before any work
    return streamed_view_cross_entropy(
        student, len(teacher), targets_of, student_temperature, overwrite=overwrite
    )


@dataclass(frozen=True)
class DinoSettings(ClusterSettings):
    """`ClusterSettings` and views; the defaults are those of the authors' long runs (ViT-S/16, 800 epochs).

    Attributes:
        local_views: small views; 8, or 10 in the longest runs. 0 = none.
        local_size: their side in pixels; None = 3/7 of the large ones (96 of 224).
        global_scale, local_scale: areas of the crops.
        koleo_weight: of KoLeo on the class tokens of each global view; DINOv2 0.1.
    """

    local_views: int = 8
    local_size: int | None = None
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    koleo_weight: float = 0.0


class Dino(Distillation):
    """Two global views for the teacher, these and small ones for the student; any backbone."""

    settings_type = DinoSettings

    settings: DinoSettings

    def __init__(self, backbone: Backbone, settings: DinoSettings = DinoSettings()) -> None:
        super().__init__(backbone, cluster_head(backbone, settings), settings)
        self.views = crop_views(
            backbone,
            ("dino_1", "dino_2"),
            settings.global_scale,
            local=settings.local_views,
            size=settings.local_size,
            local_scale=settings.local_scale,
        )

    def forward(self, batch: Batch) -> Terms:
        """`class`, and `memax` and `koleo` where they are chosen."""
        images, settings = checked_views(batch, self.views), self.settings
        V, B = len(images), len(images[0])
        features = vectors(self.student.backbone, images)  # [V B, D]
        student = self.student.head(features).unflatten(0, (V, B))
        teacher = self.teacher(images[:GLOBAL_VIEWS])
        loss = dino_loss(
            student,
            teacher,
            self.avoidance.center,
            settings.student_temperature,
            self.temperature,
            method=self.avoidance.assignment,
            iterations=self.avoidance.iterations,
            overwrite=not self.avoidance.adds_spread,  # else ME-MAX reads the student's logits, too
        )
        terms = self.class_terms(loss, student, teacher, features[:B])
        if not settings.koleo_weight:
            return terms
        spread = spread_apart(features[: GLOBAL_VIEWS * B].unflatten(0, (GLOBAL_VIEWS, B)))
        return Terms({**terms.values, "koleo": spread}, {**terms.weights, "koleo": settings.koleo_weight})


def spread_apart(features: Tensor) -> Tensor:
    """Sum over views `[G, B, D]` of KoLeo among the images of a view; repeated images count once."""
    return torch.stack([koleo(view[distinct_rows(view.detach())]) for view in features]).sum()
