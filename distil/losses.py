"""What the student is asked: the teacher's pooled features, its relations between images, its dense maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewsight.backbones.features import Features

DENSE_WEIGHT = 0.5
RELATIONAL_WEIGHT = 10.0


class Heads(nn.Module):
    """Linear readouts that serve the training alone."""

    def __init__(self, dim: int, pooled: int, dense: int) -> None:
        super().__init__()
        self.cls, self.mean, self.dense = (
            nn.Linear(dim, pooled),
            nn.Linear(dim, pooled),
            nn.Linear(dim, dense),
        )


def cosine_gap(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of 1 - cosine over all leading axes."""
    return 1 - F.cosine_similarity(outputs.float(), targets, dim=-1).mean()


def relational_gap(tokens: Tensor, targets: Tensor) -> Tensor:
    """Mean squared difference of the off-diagonal cosines: tokens `[B, D]`, unit targets `[B, P]`."""
    unit = F.normalize(tokens.float(), dim=-1)
    B = len(unit)
    return (unit @ unit.T - targets @ targets.T).square().sum() / (B * (B - 1))


def distillation_loss(
    heads: Heads, features: Features, pooled: Tensor, projected: Tensor, dense: Tensor
) -> dict[str, Tensor]:
    """Loss by term.

    Args:
        features: of the student.
        pooled: unit pooled features of the teacher, `[B, 1280]`.
        projected: the same in scaled principal components, `[B, 512]`.
        dense: scaled principal components of the teacher's maps for the student's patches, `[B, h, w, 256]`.
    """
    assert features.cls is not None
    assert features.patches is not None
    cls, mean = features.cls, features.patches.mean((1, 2))
    terms = {
        "pooled": (cosine_gap(heads.cls(cls), projected) + cosine_gap(heads.mean(mean), projected)) / 2,
        "dense": DENSE_WEIGHT * cosine_gap(heads.dense(features.patches), dense),
        "relational": RELATIONAL_WEIGHT * (relational_gap(cls, pooled) + relational_gap(mean, pooled)) / 2,
    }
    return {**terms, "loss": torch.stack(list(terms.values())).sum()}
