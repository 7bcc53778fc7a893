"""iBOT: self-distillation of class tokens across views and of masked patch tokens within a view.

Zhou, Wei, Wang, Shen, Xie, Yuille, Kong: iBOT: Image BERT Pre-Training with Online Tokenizer (ICLR 2022),
section 3.

    class   as DINO; the student's global views are masked
    patch   p'_i = softmax((t'_i - c') / T'),  mean of H(p'_i, q'_i) over masked patches of an image, then over images

An image without a masked patch counts as 0 in the mean over all images and views.
Both centres average all tokens, masked or not (`update_center`).
Differs from the authors' code: other means against collapse can take the place of centring; only masked rows
are normalised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fewsight.backbones.backbone import Backbone, TokenMask
from fewsight.backbones.features import pool
from fewsight.objectives.annealing import linear_warmup
from fewsight.objectives.assignments import AssignmentMethod, assign, assign_patches
from fewsight.objectives.collapse import Avoidance, CollapseAvoidance
from fewsight.objectives.crops import checked_views, crop_views, encoded, token_rows
from fewsight.objectives.cross_entropy import patch_cross_entropy, view_cross_entropy
from fewsight.objectives.distillation import ClusterSettings, Distillation, cluster_head
from fewsight.objectives.drawn_masks import block_token_masks, patch_grid
from fewsight.objectives.fixed_parts import give_mask_token
from fewsight.objectives.objective import Batch, Progress, Terms
from fewsight.objectives.patch_clustering import patch_term
from fewsight.objectives.ranges import check_positive, check_within
from fewsight.shapes import check_shapes

__all__ = ["Ibot", "IbotLosses", "IbotSettings", "ibot_loss", "masked_patch_loss"]

GLOBAL_VIEWS = 2


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


@dataclass(frozen=True)
class IbotSettings(ClusterSettings):
    """`ClusterSettings` and what iBOT adds; the defaults are those of the published ViT-S/16 run.

    Attributes:
        patch_prototypes: P of patch tokens; 0 = they share the class tokens' layer (published).
        patch_collapse: means against collapse of patch tokens; Sinkhorn balances each position by itself.
        patch_temperature: of the teacher's patch assignments, reached like `teacher_temperature`.
        class_weight, patch_weight: of the two terms.
        unmasked: share of the large views without mask.
        mask_ratio: the masked share of the others is uniform between these.
        local_views, local_size, global_scale, local_scale: as in DINO.
    """

    prototypes: int = 8192
    patch_prototypes: int = 0
    patch_collapse: Avoidance = "centring"
    patch_temperature: float = 0.07
    class_weight: float = 1.0
    patch_weight: float = 1.0
    unmasked: float = 0.5
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    local_views: int = 10
    local_size: int | None = None
    global_scale: tuple[float, float] = (0.25, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.25)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(patch_temperature=self.patch_temperature)
        low, high = self.mask_ratio
        check_within(0, 1, unmasked=self.unmasked, mask_ratio_low=low, mask_ratio_high=high)


class Ibot(Distillation):
    """Class tokens across views, masked patch tokens within a view; a vision transformer."""

    settings_type = IbotSettings

    settings: IbotSettings

    def __init__(self, backbone: Backbone, settings: IbotSettings = IbotSettings()) -> None:
        give_mask_token(backbone, deviation=0.0)
        super().__init__(backbone, cluster_head(backbone, settings, settings.patch_prototypes), settings)
        self.patch_avoidance = CollapseAvoidance(
            settings.patch_prototypes or settings.prototypes,
            settings.patch_collapse,
            center_momentum=settings.center_momentum,
        )
        self.views = crop_views(
            backbone,
            ("dino_1", "dino_2"),
            settings.global_scale,
            local=settings.local_views,
            size=settings.local_size,
            local_scale=settings.local_scale,
        )

    @property
    def patch_temperature(self) -> float:
        """Of the teacher's patch assignments at the present step."""
        settings = self.settings
        warmup = settings.temperature_warmup * self.progress.total_steps
        first = settings.first_teacher_temperature
        return linear_warmup(first, settings.patch_temperature, warmup, self.progress.step)

    def after_step(self, progress: Progress) -> None:
        """Move teacher and both centres, once."""
        super().after_step(progress)
        self.patch_avoidance.after_step()

    def forward(self, batch: Batch) -> Terms:
        """`class` and `patch`, and `memax` where it is chosen."""
        images, settings = checked_views(batch, self.views), self.settings
        V, B, G = len(images), len(images[0]), GLOBAL_VIEWS
        mask = self._masks(images[:G], batch)  # [G, B, h, w]
        # apart from each other, for small views may be as large as the others
        (large,) = encoded(self.student.backbone, images[:G], TokenMask(mask.flatten(0, 1)))
        small = encoded(self.student.backbone, images[G:]) if V > G else []
        features = torch.cat([pool(part, "cls") for part in (large, *small)])
        student = self.student.head(features).unflatten(0, (V, B))
        with torch.no_grad():
            clean = self.teacher.network.backbone.features(torch.cat(images[:G]))
            teacher = self.teacher.network.head(pool(clean, "cls")).unflatten(0, (G, B))
        targets = self.avoidance.targets(teacher, self.temperature)
        loss = view_cross_entropy(student, targets, settings.student_temperature)
        terms = self.class_terms(loss, student, teacher, features[:B])
        patches = patch_term(
            self.student.head,
            self.teacher.network.head,
            token_rows(large, G),
            token_rows(clean, G),
            mask.flatten(2),
            self.patch_avoidance,
            student_temperature=settings.student_temperature,
            teacher_temperature=self.patch_temperature,
        )
        weights = {"class": settings.class_weight, "patch": settings.patch_weight}
        return Terms({**terms.values, "patch": patches}, {**terms.weights, **weights})

    def _masks(self, images: tuple[Tensor, ...], batch: Batch) -> Tensor:
        grid = patch_grid(self.student.backbone, images[0])
        drawn = [
            block_token_masks(
                batch, view, number, grid, none=self.settings.unmasked, ratio=self.settings.mask_ratio
            )
            for number, view in enumerate(images)
        ]
        return torch.stack(drawn)
