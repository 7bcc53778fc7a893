"""A tiny vision transformer, tiny settings of every pretraining objective, and batches of their views."""

from __future__ import annotations

from typing import Any

import torch

from fewsight.backbones.architectures import untrained_backbone
from fewsight.backbones.backbone import Backbone
from fewsight.objectives.dino import Dino, DinoSettings
from fewsight.objectives.gmml import CorruptionSettings, Gmml, GmmlSettings
from fewsight.objectives.ibot import Ibot, IbotSettings
from fewsight.objectives.mae_training import Mae, MaeSettings
from fewsight.objectives.masked_clustering import MaskedClustering, MaskedClusteringSettings
from fewsight.objectives.moco_v3 import MocoV3, MocoV3Settings
from fewsight.objectives.msn import Msn, MsnSettings
from fewsight.objectives.objective import Batch, Objective
from fewsight.objectives.simclr import SimClr, SimClrSettings
from fewsight.objectives.simmim import SimMim, SimMimSettings
from fewsight.objectives.swav import Swav, SwavSettings

CLUSTER: dict[str, Any] = {
    "prototypes": 12,
    "hidden": 16,
    "bottleneck": 8,
    "local_views": 2,
    "local_size": 16,
    "drop_path": 0.0,
    "frozen_prototypes": 0.0,
    "temperature_warmup": 0.5,
}
NOISE = CorruptionSettings(fill="noise", replace_probability=0.0)

SETTINGS: dict[str, tuple[type, Any]] = {
    "simclr": (SimClr, SimClrSettings(projection=8)),
    "moco_v3": (MocoV3, MocoV3Settings(hidden=16, projection=8)),
    "dino": (Dino, DinoSettings(**CLUSTER, koleo_weight=0.1)),
    "swav": (
        Swav,
        SwavSettings(
            prototypes=12,
            hidden=16,
            projection=8,
            local_views=2,
            local_size=16,
            queue=16,
            queue_start=0.0,
            frozen_prototypes=0.0,
        ),
    ),
    "msn": (
        Msn,
        MsnSettings(prototypes=12, hidden=16, projection=8, focal_views=2, focal_size=16, drop=0.3),
    ),
    "mae": (Mae, MaeSettings(decoder_dim=16, decoder_depth=1, decoder_heads=2)),
    "simmim": (SimMim, SimMimSettings(mask_patch_size=8, drop_path=0.0)),
    "gmml": (Gmml, GmmlSettings(corruption=NOISE, drop_path=0.0)),
    "ibot": (Ibot, IbotSettings(**CLUSTER)),
    "masked_clustering": (
        MaskedClustering,
        MaskedClusteringSettings(**CLUSTER, patch_prototypes=10, corruption=NOISE, patch_ramp=0.0),
    ),
}


def network(seed: int = 0) -> Backbone:
    return untrained_backbone(
        "vit_tiny_patch16_224", image_size=32, seed=seed, depth=2, embed_dim=16, num_heads=2, patch_size=8
    )


def made(name: str, settings: Any = None, seed: int = 0) -> Objective:
    kind, default = SETTINGS[name]
    torch.manual_seed(seed)
    return kind(network(seed), settings or default)


def batch(objective: Objective, images: int = 8, step: int = 0, first: int = 0) -> Batch:
    """Views of photos `first .. first + images`; each a function of (step, photo)."""
    views = []
    for number, spec in enumerate(each for each in objective.views for _ in range(each.count)):
        photos = [
            torch.randn(
                3,
                spec.size,
                spec.size,
                generator=torch.Generator().manual_seed(1000 * step + 37 * photo + number),
            )
            for photo in range(first, first + images)
        ]
        views.append(torch.stack(photos))
    return Batch(images=tuple(views), index=torch.arange(first, first + images), step=step, seed=5)
