"""What objectives with a student and a momentum teacher share: schedules, the frozen start, what alarms read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone
from fewsight.errors import InvalidInput
from fewsight.objectives.annealing import cosine, linear_warmup
from fewsight.objectives.collapse import Avoidance, CollapseAvoidance, student_spread
from fewsight.objectives.crops import vectors
from fewsight.objectives.objective import Objective, Progress, Terms
from fewsight.objectives.projection_heads import ClusterHead
from fewsight.objectives.ranges import check_settings, check_within
from fewsight.objectives.teacher import MomentumTeacher, set_drop_path

__all__ = ["ClusterSettings", "Distillation", "Student", "assignment_watch", "cluster_head"]


@dataclass(frozen=True)
class ClusterSettings:
    """What clustering with a student and a teacher is set by; the defaults are DINO's.

    Attributes:
        prototypes: K.
        hidden, bottleneck: of the head.
        collapse: means against collapse; one of `fewsight.objectives.collapse.AVOIDANCES`.
        memax_weight: of ME-MAX where `collapse` names it; 1 with Sinkhorn (MSN), 3 alone (Ruan et al. 2023).
        center_momentum: of the centre.
        student_temperature: of the student's softmax.
        teacher_temperature: of the assignments, after `temperature_warmup`; above 0.07 is unstable.
        first_teacher_temperature: at the start.
        temperature_warmup: share of the run over which it rises linearly.
        momentum: of the teacher at the start; a cosine leads to 1 at the end.
        frozen_prototypes: share of the run in which the prototype layer is not trained.
        learn_scale: whether prototypes have learnable lengths (DINO's ViT-S; less stable).
        drop_path: stochastic depth of the student's last block.
    """

    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    collapse: Avoidance = "centring"
    memax_weight: float = 1.0
    center_momentum: float = 0.9
    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    first_teacher_temperature: float = 0.04
    temperature_warmup: float = 0.0375
    momentum: float = 0.996
    frozen_prototypes: float = 0.00125
    learn_scale: bool = False
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        check_settings(
            self,
            positive=("student_temperature", "teacher_temperature", "first_teacher_temperature"),
            shares=("center_momentum", "temperature_warmup", "momentum", "frozen_prototypes", "drop_path"),
        )
        check_within(0, math.inf, memax_weight=self.memax_weight)
        for name in ("prototypes", "hidden", "bottleneck"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; expected 1 or more.")


def cluster_head(backbone: Backbone, settings: ClusterSettings, patch_prototypes: int = 0) -> ClusterHead:
    """One MLP for class and patch tokens; patches have prototypes of their own unless `patch_prototypes` is 0."""
    return ClusterHead(
        backbone.dim,
        settings.prototypes,
        patch_prototypes=patch_prototypes,
        hidden=settings.hidden,
        bottleneck=settings.bottleneck,
        learn_scale=settings.learn_scale,
    )


class Student(nn.Module):
    """Backbone and head under the names of the published files; views -> logits `[V, B, K]`."""

    backbone: Backbone
    head: Any  # a projector or a `ClusterHead`

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Class logits of views, view-major."""
        logits: Tensor = self.head(vectors(self.backbone, images))
        return logits.unflatten(0, (len(images), len(images[0])))


class Distillation(Objective):
    """A student and its moving average; `forward` is the method's.

    Attributes:
        student, teacher: `Student`, and the average of it that is kept when training ends.
        avoidance: against collapse, of class tokens.
    """

    student: Student
    teacher: MomentumTeacher

    def __init__(self, backbone: Backbone, head: ClusterHead, settings: ClusterSettings) -> None:
        super().__init__()
        set_drop_path(backbone, settings.drop_path)
        self.student = Student(backbone, head)
        self.teacher = MomentumTeacher(self.student)
        self.settings = settings
        self.avoidance = CollapseAvoidance(
            settings.prototypes, settings.collapse, center_momentum=settings.center_momentum
        )
        self.progress = Progress(0, 1)
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    def backbone(self) -> nn.Module:
        """The teacher's backbone, better than the student's at nearly every moment of training."""
        kept: nn.Module = self.teacher.network.backbone
        return kept

    def trained_backbone(self) -> nn.Module:
        """The student's."""
        return self.student.backbone

    @property
    def temperature(self) -> float:
        """Of the teacher at the present step."""
        settings = self.settings
        warmup = settings.temperature_warmup * self.progress.total_steps
        first, last = settings.first_teacher_temperature, settings.teacher_temperature
        return linear_warmup(first, last, warmup, self.progress.step)

    def before_step(self, progress: Progress) -> None:
        """Set temperature and what is frozen for this step."""
        self.progress = progress
        self.student.head.freeze_prototypes(progress.fraction < self.settings.frozen_prototypes)

    def after_step(self, progress: Progress) -> None:
        """Move teacher and centre, once."""
        done = (progress.step - 1) / max(1, progress.total_steps)
        self.teacher.move(self.student, cosine(self.settings.momentum, 1.0, done))
        self.avoidance.after_step()

    def class_terms(self, loss: Tensor, student: Tensor, teacher: Tensor, features: Tensor) -> Terms:
        """The cross-entropy as `class`, with `memax` where it is chosen; counts the teacher towards the centre.

        Args:
            student, teacher: class logits `[V, B, K]`, `[G, B, K]`.
            features: class tokens of one view, for the alarms.
        """
        self.avoidance.observe(teacher)
        self._seen = loss.detach(), teacher.detach(), features.detach()
        if not self.avoidance.adds_spread:
            return Terms({"class": loss})
        spread = student_spread(student, self.settings.student_temperature)
        return Terms({"class": loss, "memax": spread}, {"memax": self.settings.memax_weight})

    def watched(self) -> dict[str, Tensor]:
        """Assignments and features of the last batch, by the present centre; every rank must ask."""
        if self._seen is None:
            return {}
        loss, teacher, features = self._seen
        return assignment_watch(loss, self.avoidance.targets(teacher, self.temperature), features)


@torch.no_grad()
def assignment_watch(loss: Tensor, targets: Tensor, features: Tensor) -> dict[str, Tensor]:
    """What the alarms read of a clustering objective.

    Args:
        loss: cross-entropy of class tokens.
        targets: assignments `[..., K]`.
        features: class tokens before the head, one view `[B, D]`.

    Returns:
        `loss`, `collapsed_loss` (ln K), `target_entropy` (mean over rows, nats), `mean_assignment` `[K]`,
        `winners` int `[R]` (the likeliest prototype of each row), `features`; all detached.
    """
    rows = targets.detach().reshape(-1, targets.shape[-1])
    entropy = -torch.special.xlogy(rows, rows).sum(1).mean()
    return {
        "loss": loss.detach(),
        "collapsed_loss": torch.tensor(math.log(rows.shape[1])),
        "target_entropy": entropy,
        "mean_assignment": rows.mean(0),
        "winners": rows.argmax(1),
        "features": features.detach(),
    }
