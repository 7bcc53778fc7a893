"""Online k-NN: how often the nearest photos of a labelled sample have the same class, while pretraining runs.

Caron et al., DINO (ICCV 2021), section 4.2.1: the protocol that the authors tune by. The sample is judged against
itself with each photo left out, so that a few photos a class serve.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.heads.neighbours import neighbour_votes
from fewsight.objectives.objective import Objective
from fewsight.training.watch import held_features

__all__ = ["NeighbourProbe", "left_out_neighbours"]


@torch.no_grad()
def left_out_neighbours(features: Tensor, labels: Tensor, k: int) -> float:
    """Share of photos whose class wins the vote of their k nearest others.

    Args:
        features: `[n, D]`, any length of rows.
        labels: class ids `[n]` in 0..C-1.
        k: neighbours; cut to n - 1.

    >>> left_out_neighbours(torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]]), torch.tensor([0, 0, 1, 1]), 1)
    1.0
    """
    units = F.normalize(features.float(), dim=1)
    similarity = (units @ units.T).fill_diagonal_(-torch.inf)
    votes = neighbour_votes(similarity, labels, min(k, len(labels) - 1), 0.07, int(labels.max()) + 1)
    return float((votes.argmax(1) == labels).float().mean())


class NeighbourProbe:
    """Give it to `train` as `probe`: k-NN and 1-NN accuracy on a labelled sample, beside chance.

    Args:
        images: `[n, 3, H, W]` by the backbone's own transform; a few hundred.
        labels: class ids `[n]` in 0..C-1, two photos or more of a class, two classes or more.

    Attributes:
        k: 20, or twice the smallest class if that is fewer.
        chance: share of the largest class.

    Raises:
        InvalidInput: labels that allow no judgement.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        counts = torch.bincount(labels)
        counts = counts[counts > 0]
        if len(images) != len(labels) or len(counts) < 2 or int(counts.max()) < 2:
            raise InvalidInput(
                f"the labelled sample has {len(images)} photos, {len(labels)} labels and {len(counts)} classes; "
                "expected as many labels as photos, two classes, and two photos of one."
            )
        self.images, self.labels = images, labels
        self.k = min(20, 2 * int(counts.min()), len(labels) - 1)
        self.chance = float(counts.max()) / len(labels)

    def __call__(self, objective: Objective, step: int) -> dict[str, float]:
        """`knn`, `nearest` (k = 1) and `knn_chance`."""
        features = held_features(objective.backbone(), self.images)
        return {
            "knn": left_out_neighbours(features, self.labels, self.k),
            "nearest": left_out_neighbours(features, self.labels, 1),
            "knn_chance": self.chance,
        }
