"""DINO: self-distillation without labels.

Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin: Emerging Properties in Self-Supervised Vision
Transformers (ICCV 2021), sections 3.1 and 3.2. A student learns to give, on every view, the assignment that a
moving average of itself gives on another global view.

    p_g = softmax((t_g - c) / teacher_temperature),   q_v = softmax(s_v / student_temperature)
    L   = 1 / (G V - G)  sum over g, v != g of  mean over images of  H(p_g, q_v)

The centre c takes part in its own step only after the loss: `fewsight.objectives.assignments.update_center`.

Differs from the authors' code: the loss never changes the centre; other means against collapse can take the
place of centring; local crops meet the sum of the teacher's targets once (same value, fewer passes).
"""

from __future__ import annotations

from torch import Tensor

from fewsight.objectives.assignments import AssignmentMethod, assign
from fewsight.objectives.cross_entropy import streamed_view_cross_entropy, view_cross_entropy
from fewsight.objectives.ranges import check_positive
from fewsight.shapes import check_shapes

__all__ = ["dino_loss"]


def dino_loss(
    student: Tensor,
    teacher: Tensor,
    center: Tensor | None,
    student_temperature: float,
    teacher_temperature: float,
    *,
    method: AssignmentMethod = "centring",
    iterations: int = 3,
) -> Tensor:
    """Cross-entropy of student views against the teacher's assignments of the other global views.

    Args:
        student: logits `[V, B, K]`, the G global views first, view-major; carries gradient.
        teacher: logits `[G, B, K]` of the global views; carries none.
        center: `[K]` from before this step; None unless `method` is `centring`.
        student_temperature, teacher_temperature: above 0; published 0.1 and 0.04 to 0.07.
        method: against collapse; Sinkhorn assigns all global views together, with `iterations`.

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
    return streamed_view_cross_entropy(student, len(teacher), targets_of, student_temperature)
