"""Prototype fine-tuning: the backbone is trained so that augmented photos lie nearest to the prototype of their class.

Shell Xu Hu, Da Li, Jan Stuehmer, Minyoung Kim, Timothy Hospedales, "Pushing the Limits of Simple Pipelines for Few-Shot
Learning" (P>M>F), CVPR 2022 (arXiv 2204.07305), the fine-tuning on one task:

    m_k    = mean of f(x) over the clean photos of class k
    logits = scale * cos(f(augmented x), m_k);   loss = mean of -log softmax(logits)[own class]

The first view of a batch is clean, the others are augmented. There is no head; gradients flow through both sides.

Differs from the authors' code: each step takes a class-balanced batch for a task where theirs takes the whole support
(the same where the support fits a batch); the learned scale and bias of their meta-training are fixed at their start,
10 and 0. On several processes each takes its own share of the batch for a task, as theirs takes one episode each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.errors import InvalidInput
from fewsight.objectives.objective import Batch, Objective, Sampling, Terms

__all__ = ["PrototypeTuning", "prototype_tuning_loss"]


def prototype_tuning_loss(
    supports: Tensor, queries: Tensor, labels: Tensor, *, scale: float = 10.0
) -> tuple[Tensor, Tensor]:
    """Loss of queries against the prototypes of their classes, and their logits.

    Args:
        supports: clean photos `[N, D]`.
        queries: augmented photos `[Q, N, D]`, Q views of the same photos in the same order.
        labels: class ids `[N]`.
        scale: of the cosines.

    Returns:
        A scalar, and logits `[Q N, K]`, columns = sorted distinct labels.

    >>> supports = torch.eye(2)
    >>> loss, logits = prototype_tuning_loss(supports, supports[None], torch.tensor([0, 1]))
    >>> logits.tolist()
    [[10.0, 0.0], [0.0, 10.0]]
    """
    columns, counts = torch.unique(labels, return_inverse=True, return_counts=True)[1:]
    sums = supports.new_zeros(len(counts), supports.shape[1]).index_add(0, columns, supports)
    prototypes = F.normalize(sums / counts[:, None], dim=1)
    logits = scale * F.normalize(queries.flatten(0, 1), dim=1) @ prototypes.T
    return F.cross_entropy(logits, columns.repeat(len(queries))), logits


class PrototypeTuning(Objective):
    """Trains a backbone on class-balanced batches of a clean view and augmented ones.

    Args:
        backbone: is trained.
        scale: of the cosines; published 10.
    """

    sampling: Sampling = "balanced"

    def __init__(self, backbone: Backbone, *, scale: float = 10.0) -> None:
        super().__init__()
        if not scale > 0:
            raise InvalidInput(f"scale is {scale}; expected a positive number.")
        self.encoder, self.scale = backbone, scale
        self._seen: dict[str, Tensor] = {}

    def backbone(self) -> Backbone:
        """The trained encoder."""
        return self.encoder

    def forward(self, batch: Batch) -> Terms:
        """`prototypes`: cross-entropy of the augmented views."""
        if batch.labels is None or len(batch.images) < 2 or not len(batch.images[0]):
            raise InvalidInput(
                "prototype fine-tuning needs labels, a clean view and at least one augmented view."
            )
        vectors = self.encoder(torch.cat(batch.images))
        with torch.autocast(vectors.device.type, enabled=False):
            views = vectors.float().unflatten(0, (len(batch.images), -1))  # [V, N, D]
            loss, logits = prototype_tuning_loss(views[0], views[1:], batch.labels, scale=self.scale)
        columns = torch.unique(batch.labels, return_inverse=True)[1].repeat(len(views) - 1)
        self._seen = {"accuracy": (logits.detach().argmax(1) == columns).float().mean()}
        return Terms({"prototypes": loss})

    def watched(self) -> dict[str, Tensor]:
        """Accuracy of the augmented views of the last batch."""
        return self._seen
