"""SwAV: swapped prediction of balanced cluster assignments between views.

Caron, Misra, Mairal, Goyal, Bojanowski, Joulin: Unsupervised Learning of Visual Features by Contrasting Cluster
Assignments (NeurIPS 2020), sections 3.1 to 3.3. Codes of the first views come from Sinkhorn over the batch (and
a queue of past features); each of the other views predicts them.

    L = 1 / (A (V - 1))  sum over i < A, v != i of  mean over images of  H(sinkhorn(scores_i), softmax(scores_v / T))

Differs from the authors' code: Sinkhorn is safe for scores of any magnitude; other means against collapse can take
its place; the queue is asked whether it is full, not whether its last row is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone
from fewsight.distributed import world_size
from fewsight.errors import InvalidInput
from fewsight.objectives.assignments import AssignmentMethod, assign
from fewsight.objectives.blocks import full_precision
from fewsight.objectives.collapse import Avoidance, CollapseAvoidance, student_spread
from fewsight.objectives.crops import checked_views, crop_views, vectors
from fewsight.objectives.cross_entropy import view_cross_entropy
from fewsight.objectives.distillation import Student, assignment_watch
from fewsight.objectives.info_nce import unit_rows
from fewsight.objectives.objective import Batch, Objective, Progress, Terms
from fewsight.objectives.projection_heads import mlp
from fewsight.objectives.ranges import check_positive, check_settings
from fewsight.shapes import check_shapes

__all__ = ["Swav", "SwavSettings", "swav_loss"]


def swav_loss(
    scores: Tensor,
    temperature: float,
    epsilon: float,
    iterations: int,
    assigned: int,
    queue_scores: Tensor | None = None,
    *,
    method: AssignmentMethod = "sinkhorn",
    center: Tensor | None = None,
) -> Tensor:
    """Swapped prediction loss; codes carry no gradient.

    Args:
        scores: cosines `[V, B, K]` of unit features and unit prototypes, view-major.
        temperature: of the prediction, published 0.1.
        epsilon: temperature of Sinkhorn, published 0.05; 0.03 where the loss stays at ln K.
        iterations: of Sinkhorn, published 3.
        assigned: A, the first views that give codes, published 2.
        queue_scores: `[A, Q, K]` of past features with the present prototypes; they stand before the batch in
            Sinkhorn and are dropped after it. None while the queue is not full.
        method, center: how codes are made, at temperature `epsilon`; published Sinkhorn.

    Returns:
        Scalar.

    Raises:
        InvalidInput: wrong shapes or ranges, `assigned` outside 1..V, a single view.
    """
    check_positive(temperature=temperature, epsilon=epsilon)
    V, B, _ = check_shapes(scores=(scores, "V B K")).values()
    if not 1 <= assigned <= V or V < 2:
        raise InvalidInput(f"assigned is {assigned} with {V} views; expected 1 to V, and two views or more.")
    codes = scores[:assigned].detach()
    if queue_scores is not None:
        check_shapes(scores=(scores, "V B K"), queue_scores=(queue_scores, f"{assigned} Q K"))
        codes = torch.cat([queue_scores.detach().to(codes.dtype), codes], dim=1)
    # Each view is balanced by itself, not all together.
    targets = torch.stack([assign(view, method, epsilon, center, iterations)[-B:] for view in codes])
    return view_cross_entropy(scores, targets, temperature)


@dataclass(frozen=True)
class SwavSettings:
    """Defaults of the authors' code at batch 4096.

    Attributes:
        prototypes, hidden, projection: K and widths of the projector.
        collapse: of `fewsight.objectives.collapse.AVOIDANCES`; published Sinkhorn.
        memax_weight: of ME-MAX where `collapse` names it.
        center_momentum: of the centre where `collapse` names centring.
        temperature: of the predictions.
        epsilon: of the codes; 0.03 where the loss stays at ln K.
        iterations: of Sinkhorn.
        assigned: the first views that give codes.
        local_views, local_size, global_scale, local_scale: the small views, 96 px of 224.
        queue: past images, over all ranks, whose features join Sinkhorn; for batches below K. 0 = none.
        queue_start: share of the run before the queue is kept.
        frozen_prototypes: share of the run in which prototypes are not trained.
    """

    prototypes: int = 3000
    hidden: int = 2048
    projection: int = 128
    collapse: Avoidance = "sinkhorn"
    memax_weight: float = 1.0
    center_momentum: float = 0.9
    temperature: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    assigned: int = 2
    local_views: int = 6
    local_size: int | None = None
    global_scale: tuple[float, float] = (0.14, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.14)
    queue: int = 0
    queue_start: float = 0.0375
    frozen_prototypes: float = 0.00125

    def __post_init__(self) -> None:
        check_settings(
            self,
            positive=("prototypes", "hidden", "projection", "temperature", "epsilon", "iterations"),
            shares=("queue_start", "frozen_prototypes", "center_momentum"),
        )
        if not 1 <= self.assigned <= 2:
            raise InvalidInput(f"assigned is {self.assigned}; there are 2 large views, so expected 1 or 2.")


class Swav(Objective):
    """Codes of two views, predicted from all others; one network; any backbone."""

    settings_type = SwavSettings

    queue: Tensor
    queued: Tensor

    def __init__(self, backbone: Backbone, settings: SwavSettings = SwavSettings()) -> None:
        super().__init__()
        self.student = Student(backbone, mlp([backbone.dim, settings.hidden, settings.projection]))
        self.prototypes = nn.Parameter(
            unit_rows(nn.Linear(settings.projection, settings.prototypes, bias=False).weight.detach())
        )
        self.avoidance = CollapseAvoidance(
            settings.prototypes,
            settings.collapse,
            center_momentum=settings.center_momentum,
            iterations=settings.iterations,
        )
        self.settings = settings
        self.views = crop_views(
            backbone,
            ("swav", "swav"),
            settings.global_scale,
            local=settings.local_views,
            size=settings.local_size,
            local_pipeline="swav",
            local_scale=settings.local_scale,
        )
        # Features of past images on this rank, newest first, and how many there are.
        rows = settings.queue // world_size()
        self.register_buffer("queue", torch.zeros(settings.assigned, rows, settings.projection))
        self.register_buffer("queued", torch.zeros((), dtype=torch.int64))
        self._queueing = False
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    def backbone(self) -> Backbone:
        """The trained encoder."""
        return self.student.backbone

    def before_step(self, progress: Progress) -> None:
        """Freeze prototypes at the start; start the queue later."""
        self.prototypes.requires_grad_(progress.fraction >= self.settings.frozen_prototypes)
        self._queueing = progress.fraction >= self.settings.queue_start

    def after_step(self, progress: Progress) -> None:
        """Move the centre, where there is one."""
        self.avoidance.after_step()

    def forward(self, batch: Batch) -> Terms:
        """`class`, and `memax` where it is chosen."""
        images, settings = checked_views(batch, self.views), self.settings
        V, B = len(images), len(images[0])
        features = vectors(self.student.backbone, images)
        with torch.no_grad():  # the layer is kept at unit rows by force, not by gradient
            self.prototypes.copy_(unit_rows(self.prototypes))
        with full_precision(features):
            units = unit_rows(self.student.head(features))
            scores = (units @ self.prototypes.T).unflatten(0, (V, B))
        loss = swav_loss(
            scores,
            settings.temperature,
            settings.epsilon,
            settings.iterations,
            settings.assigned,
            self._queue_scores(),
            method=self.avoidance.assignment,
            center=self.avoidance.center,
        )
        assigned = scores[: settings.assigned].detach()
        self.avoidance.observe(assigned)
        self._remember(units.detach().unflatten(0, (V, B))[: settings.assigned])
        self._seen = loss.detach(), assigned, features[:B].detach()
        if not self.avoidance.adds_spread:
            return Terms({"class": loss})
        spread = student_spread(scores, settings.temperature)
        return Terms({"class": loss, "memax": spread}, {"memax": settings.memax_weight})

    @torch.no_grad()
    def _queue_scores(self) -> Tensor | None:
        """Scores `[A, Q, K]` of a full queue by the present prototypes."""
        Q = self.queue.shape[1]
        return self.queue @ self.prototypes.T if Q and int(self.queued) >= Q else None

    @torch.no_grad()
    def _remember(self, units: Tensor) -> None:
        Q = self.queue.shape[1]
        if not (Q and self._queueing and self.training):
            return
        self.queue.copy_(torch.cat([units.to(self.queue.dtype), self.queue], dim=1)[:, :Q])
        self.queued += units.shape[1]

    def watched(self) -> dict[str, Tensor]:
        """Assignments and features of the last batch; every rank must ask."""
        if self._seen is None:
            return {}
        loss, scores, features = self._seen
        targets = torch.stack([self.avoidance.targets(view, self.settings.epsilon) for view in scores])
        return assignment_watch(loss, targets, features)
