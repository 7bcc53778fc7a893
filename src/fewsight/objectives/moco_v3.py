"""MoCo-v3: contrast of a student's queries with a momentum teacher's keys, without a queue.

Chen, Xie, He: An Empirical Study of Training Self-Supervised Vision Transformers (ICCV 2021), algorithm 1.

    ctr(q, k) = 2 T  mean over i of  [ logsumexp_j (q_i . k_j / T)  -  q_i . k_i / T ],    L = ctr(q1, k2) + ctr(q2, k1)

The factor 2 T makes the gradient's scale independent of the temperature T. Keys come from the whole global
batch and carry no gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.distributed import gather, rows_before, world_size
from fewsight.errors import InvalidInput
from fewsight.objectives.annealing import cosine
from fewsight.objectives.blocks import at_least_float32, full_precision
from fewsight.objectives.crops import checked_views, crop_views, vectors
from fewsight.objectives.distillation import Student
from fewsight.objectives.fixed_parts import fix_patch_projection, fix_positions
from fewsight.objectives.info_nce import contrastive_sum, unit_rows
from fewsight.objectives.objective import Batch, Objective, Progress, Terms
from fewsight.objectives.projection_heads import mlp
from fewsight.objectives.ranges import check_positive, check_within
from fewsight.objectives.teacher import MomentumTeacher
from fewsight.shapes import check_shapes

__all__ = ["MocoV3", "MocoV3Settings", "moco_v3_loss"]


def moco_v3_loss(q1: Tensor, q2: Tensor, k1: Tensor, k2: Tensor, temperature: float) -> Tensor:
    """Symmetrised contrastive loss of two views; q1 pairs with k2, q2 with k1.

    Args:
        q1, q2: `[B, D]`, student, projector and predictor; normalised inside.
        k1, k2: `[B, D]`, teacher and projector; no gradient.
        temperature: above 0; published 0.2 for vision transformers, 1 for residual networks.

    Returns:
        Scalar; 0 for a single image, which has no negatives.

    Raises:
        InvalidInput: wrong shapes, no images, temperature not above 0.
    """
    B = check_shapes(q1=(q1, "B D"), q2=(q2, "B D"), k1=(k1, "B D"), k2=(k2, "B D"))["B"]
    check_positive(temperature=temperature)
    if B < 1:
        raise InvalidInput(f"q1 has shape {list(q1.shape)}; expected at least one image.")
    loss = torch.zeros((), dtype=at_least_float32(q1).dtype, device=q1.device)
    positives = rows_before(q1) + torch.arange(B, device=q1.device)
    for queries, keys in ((q1, k2), (q2, k1)):
        with full_precision(q1):
            own = unit_rows(queries)
            every = gather(unit_rows(keys.detach()))
        scale = 2 * temperature * world_size() / len(every)
        loss = loss + contrastive_sum(own, every, positives, temperature) * scale
    return loss


@dataclass(frozen=True)
class MocoV3Settings:
    """Defaults of the authors' vision transformers (300 epochs, batch 4096).

    Attributes:
        temperature: 0.2; 1 for residual networks.
        hidden, projection: widths of projector and predictor.
        momentum: of the teacher at the start; a cosine leads to 1.
        scale: area of the crops.
        fixed_patch_projection: keep the random patch embedding as it is, which removes the dips of training.
        fixed_positions: sine-cosine positions that are not trained.
    """

    temperature: float = 0.2
    hidden: int = 4096
    projection: int = 256
    momentum: float = 0.99
    scale: tuple[float, float] = (0.08, 1.0)
    fixed_patch_projection: bool = True
    fixed_positions: bool = True

    def __post_init__(self) -> None:
        check_positive(temperature=self.temperature, hidden=self.hidden, projection=self.projection)
        check_within(0, 1, momentum=self.momentum)


class MocoV3(Objective):
    """Queries of a student against keys of its average on the other view; any backbone."""

    settings_type = MocoV3Settings

    def __init__(self, backbone: Backbone, settings: MocoV3Settings = MocoV3Settings()) -> None:
        super().__init__()
        if settings.fixed_patch_projection:
            fix_patch_projection(backbone)
        if settings.fixed_positions:
            fix_positions(backbone)
        hidden, width = settings.hidden, settings.projection
        self.student = Student(backbone, mlp([backbone.dim, hidden, hidden, width], last="plain"))
        self.predictor = mlp([width, hidden, width], last="plain")
        self.teacher = MomentumTeacher(self.student)
        self.settings = settings
        self.views = crop_views(backbone, ("byol_1", "byol_2"), settings.scale)
        self._seen: dict[str, Tensor] = {}

    def backbone(self) -> Backbone:
        """The student's, as the authors' conversion takes it."""
        return self.student.backbone

    def before_step(self, progress: Progress) -> None:
        """Move the teacher, which the authors do before the keys are made rather than after the step."""
        self.teacher.move(self.student, cosine(self.settings.momentum, 1.0, progress.fraction))

    def forward(self, batch: Batch) -> Terms:
        """`contrast`."""
        images = checked_views(batch, self.views)
        features = vectors(self.student.backbone, images)
        # Batch moments are those of one view, as in the authors' code.
        q1, q2 = (self.predictor(self.student.head(view)) for view in features.chunk(2))
        k1, k2 = (self.teacher([view])[0] for view in images)
        loss = moco_v3_loss(q1, q2, k1, k2, self.settings.temperature)
        chance = 4 * self.settings.temperature * math.log(max(1, len(q1) * world_size()))
        self._seen = {
            "loss": loss.detach(),
            "collapsed_loss": torch.tensor(chance),
            "features": features[: len(q1)].detach(),
        }
        return Terms({"contrast": loss})

    def watched(self) -> dict[str, Tensor]:
        """The loss beside that of a collapsed batch, and features of one view."""
        return self._seen
