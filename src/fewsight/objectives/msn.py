"""MSN: masked siamese networks, clustering of partly dropped views onto prototypes.

Assran, Caron, Misra, Bojanowski, Bordes, Vincent, Joulin, Rabbat, Ballas: Masked Siamese Networks for
Label-Efficient Learning (ECCV 2022), section 3. With unit rows a (anchors), h (targets), c (prototypes):

    q = softmax(a c^T / T),   p = softmax(h c^T / (T S)) [, then Sinkhorn],
    L = mean H(p, q) + w (ln K - H(mean q)) + u mean H(q)

The paper's sharpening p^(1/S) / sum p^(1/S) of a softmax at T is the softmax at T S.

Differs from the authors' code: all in log space (theirs takes the log of q^-p, infinite when q underflows);
anchors are swept in blocks and scores are made again in the backward pass, so that [V B, K] never exists but for
the targets; prototypes' gradients are averaged over ranks as all others (theirs are summed); the dropped patches are
the same on all ranks; centring can take the place of Sinkhorn and ME-MAX.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fewsight.backbones.backbone import Backbone, TokenMask
from fewsight.backbones.features import pool
from fewsight.distributed import global_rows
from fewsight.errors import InvalidInput
from fewsight.objectives import assignments
from fewsight.objectives.annealing import linear_warmup
from fewsight.objectives.blocks import full_precision, row_blocks
from fewsight.objectives.collapse import Avoidance, CollapseAvoidance
from fewsight.objectives.crops import checked_views, crop_views, encoded
from fewsight.objectives.distillation import Student, assignment_watch
from fewsight.objectives.drawn_masks import patch_grid
from fewsight.objectives.info_nce import unit_rows
from fewsight.objectives.objective import Batch, Objective, Progress, Terms
from fewsight.objectives.projection_heads import mlp
from fewsight.objectives.ranges import check_positive, check_settings, check_within
from fewsight.objectives.teacher import MomentumTeacher, set_drop_path
from fewsight.seeding import torch_generator
from fewsight.shapes import check_shapes

__all__ = ["Msn", "MsnLosses", "MsnSettings", "msn_loss"]


class MsnLosses(NamedTuple):
    """Unweighted scalars, and the targets `[V B, K]` that the anchors were given (without gradient)."""

    cross_entropy: Tensor
    me_max: Tensor
    entropy: Tensor
    targets: Tensor


def msn_loss(
    anchors: Tensor,
    targets: Tensor,
    prototypes: Tensor,
    temperature: float,
    sharpening: float,
    sinkhorn: bool,
    sinkhorn_iterations: int,
    me_max_weight: float,
    entropy_weight: float,
    *,
    center: Tensor | None = None,
) -> MsnLosses:
    """The three terms; the loss is `cross_entropy + me_max_weight * me_max + entropy_weight * entropy`.

    Gradients reach anchors and, through them alone, prototypes. The weights do not change the terms; a weight
    of 0 detaches its term, so that the weighted sum stays exact.

    Args:
        anchors: `[V B, D]`, view-major; normalised inside, as all three are.
        targets: `[B, D]`, of the teacher; each serves all anchors of its image.
        prototypes: `[K, D]`.
        temperature: T, published 0.1.
        sharpening: S, published 0.25.
        sinkhorn: whether the sharpened targets are balanced, over the targets of all ranks.
        sinkhorn_iterations: published 3; not looked at without `sinkhorn`.
        center: `[K]`, taken off the targets' cosines; not together with `sinkhorn`.

    Raises:
        InvalidInput: wrong shapes or ranges, anchors that are no multiple of targets.
    """
    check_shapes(anchors=(anchors, "M D"), targets=(targets, "B D"), prototypes=(prototypes, "K D"))
    M, B = len(anchors), len(targets)
    if center is not None:
        check_shapes(prototypes=(prototypes, "K D"), center=(center, "K"))
        if sinkhorn:
            raise InvalidInput(
                "center is given with sinkhorn; expected one of them, together they are redundant."
            )
    check_positive(temperature=temperature, sharpening=sharpening)
    if B < 1 or M < 1 or M % B:
        raise InvalidInput(
            f"anchors has {M} rows for {B} targets; expected a whole number of views, V * B rows."
        )
    with full_precision(anchors):
        units = unit_rows(prototypes)
        iterations = sinkhorn_iterations if sinkhorn else None
        assigned = _assigned(
            unit_rows(targets.detach()), units.detach(), temperature * sharpening, iterations, center
        )
        terms = _PrototypeTerms.apply(unit_rows(anchors), units, assigned, temperature)
        cross_entropy, entropy, total = terms
        spread = assignments.mean_entropy_gap(total, M)
    count = global_rows(M, anchors.device)
    return MsnLosses(
        cross_entropy / count,
        spread if me_max_weight else spread.detach(),
        (entropy if entropy_weight else entropy.detach()) / count,
        assigned.repeat(M // B, 1) if M > B else assigned,
    )


@torch.no_grad()
def _assigned(
    targets: Tensor,
    prototypes: Tensor,
    temperature: float,
    iterations: int | None,
    center: Tensor | None = None,
) -> Tensor:
    """Sharpened, and where asked for balanced, distributions `[B, K]` of the targets."""
    scores = targets.new_empty(len(targets), len(prototypes))
    for rows in row_blocks(len(targets), len(prototypes), scores.device):
        block = (targets[rows] / temperature) @ prototypes.T
        if center is not None:
            block -= center.detach() / temperature
        # The authors balance the sharpened probabilities: rows are normalised before the first column step.
        normalise = torch.softmax if iterations is None else torch.log_softmax
        normalise(block, dim=1, out=scores[rows])
    return scores if iterations is None else assignments.sinkhorn(scores, 1.0, iterations)


class _PrototypeTerms(torch.autograd.Function):
    """Sums over anchors of H(p, q) and H(q), and the sum of q `[K]`, for q = softmax(a c^T / T)."""

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, prototypes: Tensor, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(anchors, prototypes, targets)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        cross_entropy, entropy = anchors.new_zeros(()), anchors.new_zeros(())
        total = anchors.new_zeros(len(prototypes))
        for rows, own in _anchor_blocks(anchors, prototypes, targets):
            log_q = torch.log_softmax((anchors[rows] / temperature) @ prototypes.T, dim=1)
            cross_entropy -= torch.dot(targets[own].flatten(), log_q.flatten())
            q = log_q.exp()
            entropy -= torch.dot(q.flatten(), log_q.flatten())
            total += q.sum(dim=0)
        return cross_entropy, entropy, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        anchors, prototypes, targets = ctx.saved_tensors
        anchor_gradient, prototype_gradient = torch.empty_like(anchors), torch.zeros_like(prototypes)
        with full_precision(anchors):
            for rows, own in _anchor_blocks(anchors, prototypes, targets):
                scores = (anchors[rows] / ctx.temperature) @ prototypes.T
                by_scores = _score_gradient(scores, targets[own], *gradients)
                torch.mm(by_scores, prototypes, out=anchor_gradient[rows])
                prototype_gradient.addmm_(by_scores.T, anchors[rows])
        return anchor_gradient.div_(ctx.temperature), prototype_gradient.div_(ctx.temperature), None, None


def _score_gradient(
    scores: Tensor,
    targets: Tensor,
    cross_entropy: Tensor | None,
    entropy: Tensor | None,
    total: Tensor | None,
) -> Tensor:
    """Gradient `[m, K]` by the scores of a block, from those of the three sums; a sum nobody used has None.

    `q (g - <q, g>)` is the gradient of what has the gradient g by q: `total` for the sum of q, `-log q - 1` for
    the entropy, where the constant cancels. The cross-entropy adds `q - p`.
    """
    q = torch.softmax(scores, dim=1)
    weight = q.new_zeros(()) if cross_entropy is None else cross_entropy
    row = weight.expand(len(q))
    if total is not None:
        row = row - q @ total
    by_scores = q * row[:, None]
    if total is not None:
        by_scores.addcmul_(q, total)
    if entropy is not None:
        log_q = torch.log_softmax(scores, dim=1)
        log_q.sub_(torch.linalg.vecdot(q, log_q)[:, None])
        by_scores.addcmul_(q, log_q * -entropy)
    return by_scores.addcmul_(targets, weight, value=-1)


def _anchor_blocks(anchors: Tensor, prototypes: Tensor, targets: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows of anchors and the rows of the targets that belong to them, view by view."""
    B = len(targets)
    for start in range(0, len(anchors), B):
        for own in row_blocks(B, len(prototypes), anchors.device):
            yield slice(start + own.start, start + own.stop), own


@dataclass(frozen=True)
class MsnSettings:
    """Defaults of the authors' public configuration for ViT-S/16.

    Attributes:
        prototypes, hidden, projection: K and widths of the projector.
        collapse: of `fewsight.objectives.collapse.AVOIDANCES`.
        memax_weight: 1 with Sinkhorn, 3 to 5 without (Ruan et al. 2023).
        entropy_weight: of the mean entropy of single predictions; 0 in all published runs.
        center_momentum: of the centre where `collapse` names centring.
        temperature: of the student.
        sharpening: teacher temperature / temperature.
        first_sharpening, temperature_warmup: its value at the start, and the share of the run until `sharpening`.
        iterations: of Sinkhorn.
        momentum, momentum_stretch: of the teacher: linear towards 1 over `momentum_stretch` times the run.
        drop: share of the patches left out of the large view; 0.15 ViT-S, 0.3 ViT-B, 0.7 larger.
        focal_views, focal_size, random_scale, focal_scale: the small views, 96 px of 224.
        drop_path: stochastic depth of the student.
    """

    prototypes: int = 1024
    hidden: int = 2048
    projection: int = 256
    collapse: Avoidance = "sinkhorn+memax"
    memax_weight: float = 1.0
    entropy_weight: float = 0.0
    center_momentum: float = 0.9
    temperature: float = 0.1
    sharpening: float = 0.25
    first_sharpening: float = 0.25
    temperature_warmup: float = 0.0
    iterations: int = 3
    momentum: float = 0.996
    momentum_stretch: float = 1.25
    drop: float = 0.15
    focal_views: int = 10
    focal_size: int | None = None
    random_scale: tuple[float, float] = (0.3, 1.0)
    focal_scale: tuple[float, float] = (0.05, 0.3)
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        check_settings(
            self,
            positive=("prototypes", "hidden", "projection", "temperature", "sharpening", "iterations"),
            shares=("momentum", "drop_path", "center_momentum", "temperature_warmup", "drop"),
        )
        check_positive(first_sharpening=self.first_sharpening)
        check_within(1, math.inf, momentum_stretch=self.momentum_stretch)


class Msn(Objective):
    """Clustering of partly dropped views onto prototypes; a vision transformer (without dropping, any backbone)."""

    settings_type = MsnSettings

    def __init__(self, backbone: Backbone, settings: MsnSettings = MsnSettings()) -> None:
        super().__init__()
        set_drop_path(backbone, settings.drop_path)
        hidden, width = settings.hidden, settings.projection
        projector = mlp([backbone.dim, hidden, hidden, width], activation="gelu")
        self.student = Student(backbone, projector)
        self.teacher = MomentumTeacher(self.student)
        bound = 1 / math.sqrt(width)
        self.prototypes = nn.Parameter(torch.empty(settings.prototypes, width).uniform_(-bound, bound))
        self.avoidance = CollapseAvoidance(
            settings.prototypes,
            settings.collapse,
            center_momentum=settings.center_momentum,
            iterations=settings.iterations,
        )
        self.settings, self.progress = settings, Progress(0, 1)
        self.views = crop_views(
            backbone,
            ("msn", "msn"),
            settings.random_scale,
            local=settings.focal_views,
            size=settings.focal_size,
            local_pipeline="msn",
            local_scale=settings.focal_scale,
        )
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    def backbone(self) -> nn.Module:
        """The teacher's, as published."""
        kept: nn.Module = self.teacher.network.backbone
        return kept

    def trained_backbone(self) -> Backbone:
        """The student's."""
        return self.student.backbone

    def undecayed(self) -> tuple[nn.Parameter, ...]:
        """The prototypes."""
        return (self.prototypes,)

    def before_step(self, progress: Progress) -> None:
        """Take note of the step, which decides the sharpening."""
        self.progress = progress

    def after_step(self, progress: Progress) -> None:
        """Move teacher and centre, once."""
        settings = self.settings
        done = (progress.step - 1) / max(1, progress.total_steps) / settings.momentum_stretch
        self.teacher.move(self.student, settings.momentum + (1 - settings.momentum) * done)
        self.avoidance.after_step()

    @property
    def sharpening(self) -> float:
        """Of the present step."""
        settings = self.settings
        warmup = settings.temperature_warmup * self.progress.total_steps
        return linear_warmup(settings.first_sharpening, settings.sharpening, warmup, self.progress.step)

    def forward(self, batch: Batch) -> Terms:
        """`class`, with `memax` and `entropy` where they are chosen."""
        target, *anchors = checked_views(batch, self.views)
        settings = self.settings
        mask = self._dropped(anchors[0], batch) if settings.drop else None
        # apart from each other, for focal views may be as large as the random one
        found = encoded(self.student.backbone, anchors[:1], mask)
        found += encoded(self.student.backbone, anchors[1:])
        features = torch.cat([pool(part, "cls") for part in found])
        anchor_rows = self.student.head(features)
        target_rows = self.teacher([target])[0]
        losses = msn_loss(
            anchor_rows,
            target_rows,
            self.prototypes,
            settings.temperature,
            self.sharpening,
            self.avoidance.assignment == "sinkhorn",
            settings.iterations,
            float(self.avoidance.adds_spread),
            settings.entropy_weight,
            center=self.avoidance.center,
        )
        B = len(target)
        self._count(target_rows)
        self._seen = losses.cross_entropy.detach(), losses.targets[:B], features[:B].detach()
        values, weights = {"class": losses.cross_entropy}, {}
        if self.avoidance.adds_spread:
            values["memax"], weights["memax"] = losses.me_max, settings.memax_weight
        if settings.entropy_weight:
            values["entropy"], weights["entropy"] = losses.entropy, settings.entropy_weight
        return Terms(values, weights)

    def _dropped(self, images: Tensor, batch: Batch) -> TokenMask:
        """One draw of patches for the whole batch, `floor(N (1 - drop))` of which stay."""
        h, w = patch_grid(self.student.backbone, images)
        kept = int(h * w * (1 - self.settings.drop))
        generator = torch_generator(batch.seed, "msn drop", batch.step)
        hidden = torch.ones(h * w, dtype=torch.bool)
        hidden[torch.randperm(h * w, generator=generator)[: max(1, kept)]] = False
        return TokenMask(hidden.view(1, h, w).expand(len(images), -1, -1).to(images.device), "drop")

    @torch.no_grad()
    def _count(self, target_rows: Tensor) -> None:
        """The centre is that of the cosines; the sum of rows gives their sum."""
        if self.avoidance.center is not None:
            with full_precision(target_rows):
                total = unit_rows(target_rows).sum(0) @ unit_rows(self.prototypes).T
            self.avoidance.observe_sum(total, len(target_rows))

    def watched(self) -> dict[str, Tensor]:
        """Assignments and features of the last batch."""
        return {} if self._seen is None else assignment_watch(*self._seen)
