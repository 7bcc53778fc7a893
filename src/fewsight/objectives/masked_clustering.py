"""Masked image modelling and clustering joined: the low-shot framework.

Nandam, Atito, Feng, Kittler, Awais: Investigating Self-Supervised Methods for Label-Efficient Learning
(IJCV 2025), in the executable form of MC-SSL (Atito, Awais, Kittler; arXiv 2111.15340). The student sees
corrupted global views and clean local ones, the teacher clean global views:

    class            DINO over pairs of views
    patch            H(teacher, student) of the same view and position
    reconstruction   mean error of the corrupted pixels of all global views, pooled

The patch term runs over all patches (MC-SSL) or over corrupted ones (iBOT's rule). Three terms, weighted by the
caller; a weight of 0 removes one: (1, 0, 0) is DINO on corrupted views, (0, 0, 1) is GMML. Centres are updated after
the step by `update_center`.

Differs from MC-SSL's code: any number of views; means against collapse other than centring; the patch and pixel
rules are settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.features import Features, pool
from fewsight.errors import InvalidInput
from fewsight.objectives.assignments import AssignmentMethod, assign, assign_patches
from fewsight.objectives.collapse import Avoidance, CollapseAvoidance
from fewsight.objectives.crops import checked_views, crop_views, encoded, patch_tokens, token_rows
from fewsight.objectives.cross_entropy import mean_cross_entropy, view_cross_entropy
from fewsight.objectives.distillation import ClusterSettings, Distillation, cluster_head
from fewsight.objectives.drawn_masks import patch_grid
from fewsight.objectives.gmml import Corrupted, CorruptionSettings, corrupted, masked_pixel_loss
from fewsight.objectives.ibot import masked_patch_loss
from fewsight.objectives.masking import patch_mask
from fewsight.objectives.objective import Batch, Progress, Terms
from fewsight.objectives.patch_clustering import patch_term
from fewsight.objectives.pixel_heads import PixelHead
from fewsight.objectives.ranges import check_choice, check_positive, check_within
from fewsight.shapes import check_shapes

__all__ = [
    "MC_SSL",
    "MaskedClustering",
    "MaskedClusteringLosses",
    "MaskedClusteringSettings",
    "masked_clustering_loss",
]

GLOBAL_VIEWS = 2


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


@dataclass(frozen=True)
class MaskedClusteringSettings(ClusterSettings):
    """`ClusterSettings` and the weights and rules of the three terms; `MC_SSL` is the published preset.

    Attributes:
        patch_prototypes: P of patch tokens, with a layer of their own on the shared MLP.
        class_weight, patch_weight, reconstruction_weight: of the terms; a term of weight 0 is never computed.
        patch_ramp: share of the run over which the patch weight rises from 0: the early teacher's patch clusters
            are noise.
        patch_collapse: means against collapse of patch tokens; Sinkhorn balances each position by itself.
        patch_targets: `masked` counts patches with a corrupted pixel, `all` every patch.
        error: of the reconstruction, `l1` or `l2`.
        corruption: of the student's large views.
        local_views, local_size, global_scale, local_scale: as in DINO.
    """

    prototypes: int = 8192
    patch_prototypes: int = 8192
    hidden: int = 1024
    collapse: Avoidance = "sinkhorn"
    class_weight: float = 1.0
    patch_weight: float = 0.5
    reconstruction_weight: float = 1.0
    patch_ramp: float = 0.0375
    patch_collapse: Avoidance = "centring"
    patch_targets: Literal["all", "masked"] = "masked"
    error: Literal["l1", "l2"] = "l1"
    corruption: CorruptionSettings = field(default_factory=CorruptionSettings)
    local_views: int = 10
    local_size: int | None = None
    global_scale: tuple[float, float] = (0.25, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.25)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(("all", "masked"), patch_targets=self.patch_targets)
        check_choice(("l1", "l2"), error=self.error)
        check_within(0, 1, patch_ramp=self.patch_ramp)
        weights = (self.class_weight, self.patch_weight, self.reconstruction_weight)
        if min(weights) < 0 or not any(weights):
            raise InvalidInput(f"the weights are {weights}; expected 0 or more, and one above 0.")


MC_SSL = MaskedClusteringSettings(
    hidden=2048,
    collapse="centring",
    patch_weight=1.0,
    patch_ramp=0.0,
    patch_targets="all",
    error="l2",
    corruption=CorruptionSettings(align=1),
)


class MaskedClustering(Distillation):
    """Corrupted large views and clean small ones against a teacher that sees clean large views."""

    settings_type = MaskedClusteringSettings

    settings: MaskedClusteringSettings

    def __init__(
        self, backbone: Backbone, settings: MaskedClusteringSettings = MaskedClusteringSettings()
    ) -> None:
        super().__init__(backbone, cluster_head(backbone, settings, settings.patch_prototypes), settings)
        self.pixels = PixelHead(backbone.dim, backbone.stride)
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

    def after_step(self, progress: Progress) -> None:
        """Move teacher and both centres, once."""
        super().after_step(progress)
        self.patch_avoidance.after_step()

    @property
    def patch_weight(self) -> float:
        """At the present step."""
        ramp = self.settings.patch_ramp
        return self.settings.patch_weight * (min(1.0, self.progress.fraction / ramp) if ramp else 1.0)

    def forward(self, batch: Batch) -> Terms:
        """`class`, `patch` and `reconstruction`, those of them that have a weight, and `memax` where it is chosen."""
        images, settings = checked_views(batch, self.views), self.settings
        G, B = GLOBAL_VIEWS, len(images[0])
        patch_grid(self.student.backbone, images[0])
        spoilt = [
            corrupted(view, batch, settings.corruption, patch_size=self.student.backbone.stride, view=number)
            for number, view in enumerate(images[:G])
        ]
        small_views = list(images[G:]) if settings.class_weight else []
        # apart from each other, for small views may be as large as the others
        (large,) = encoded(self.student.backbone, [view.images for view in spoilt])
        small = encoded(self.student.backbone, small_views) if small_views else []
        values: dict[str, Tensor] = {}
        weights = {
            "class": settings.class_weight,
            "patch": self.patch_weight,
            "reconstruction": settings.reconstruction_weight,
        }
        if settings.class_weight or settings.patch_weight:
            with torch.no_grad():
                clean = self.teacher.network.backbone.features(torch.cat(images[:G]))
        if settings.class_weight:
            features = torch.cat([pool(part, "cls") for part in (large, *small)])
            terms = self._class(features, pool(clean, "cls"), G + len(small_views), B)
            values, weights = dict(terms.values), {**terms.weights, **weights}
        if settings.patch_weight:
            values["patch"] = self._patches(large, clean, spoilt)
        if settings.reconstruction_weight:
            made = self.pixels(patch_tokens(large)).unflatten(0, (G, B))
            masks = torch.stack([view.mask for view in spoilt])
            values["reconstruction"] = masked_pixel_loss(made, torch.stack(images[:G]), masks, settings.error)
        return Terms(values, weights)

    def _class(self, features: Tensor, clean: Tensor, views: int, images: int) -> Terms:
        student = self.student.head(features).unflatten(0, (views, images))
        with torch.no_grad():
            teacher = self.teacher.network.head(clean).unflatten(0, (GLOBAL_VIEWS, images))
        targets = self.avoidance.targets(teacher, self.temperature)
        loss = view_cross_entropy(student, targets, self.settings.student_temperature)
        return self.class_terms(loss, student, teacher, features[:images])

    def _patches(self, student: Features, clean: Features, spoilt: Sequence[Corrupted]) -> Tensor:
        masks = torch.stack([view.mask for view in spoilt])
        return patch_term(
            self.student.head,
            self.teacher.network.head,
            token_rows(student, GLOBAL_VIEWS),
            token_rows(clean, GLOBAL_VIEWS),
            patch_mask(masks, self.student.backbone.stride),
            self.patch_avoidance,
            student_temperature=self.settings.student_temperature,
            teacher_temperature=self.temperature,
            which=self.settings.patch_targets,
        )
