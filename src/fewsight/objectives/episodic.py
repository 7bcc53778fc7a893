"""Episodic training: a head reads the supports of a small task, and its scores of the queries are classified.

Oriol Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016 (training on episodes); the head decides
which method it is: with `Prototypes(metric="euclidean")` it is Prototypical Networks (Snell et al. 2017, equation 2),
with `CrossTransformer` it is CrossTransformers (Doersch et al. 2020, section 3).

    loss = mean over queries of -log softmax(scores)[own class]

Any head, any backbone; a frozen backbone gets no gradient and runs in evaluation mode.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.features import Features
from fewsight.errors import InvalidInput
from fewsight.heads.head import Head, Support, membership_from_labels
from fewsight.objectives.objective import Batch, Objective, Sampling, Terms

__all__ = ["Episodic", "episode_loss"]

SUPPORT, QUERY = 0, 1  # `Batch.roles`


def episode_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of queries, in float32 at least.

    Args:
        scores: `[Q, K]`, larger = more alike.
        targets: column of each query's class, int `[Q]`.
    """
    scores = scores if scores.dtype == torch.float64 else scores.float()
    return nn.functional.cross_entropy(scores, targets)


def _full(features: Features) -> Features:
    return features.map(lambda tensor: tensor if tensor.dtype == torch.float64 else tensor.float())


class Episodic(Objective):
    """Trains a backbone and a head on episodes.

    Args:
        backbone: encodes supports and queries.
        head: conditions on the supports; its own parameters are trained too.
        temperature: the scores are divided by it before the softmax; a head with a scale of its own keeps 1.
        frozen: keep the backbone as it is.
    """

    sampling: Sampling = "episodes"

    def __init__(
        self, backbone: Backbone, head: Head, *, temperature: float = 1.0, frozen: bool = False
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise InvalidInput(f"temperature is {temperature}; expected a positive number.")
        self.encoder, self.head = backbone, head
        self.temperature, self.frozen = temperature, frozen
        if frozen:
            self.encoder.requires_grad_(False)
        self._accuracy = torch.zeros(())

    def backbone(self) -> nn.Module:
        """The trained encoder."""
        return self.encoder

    def train(self, mode: bool = True) -> Episodic:
        """Training mode for all but a frozen backbone."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, batch: Batch) -> Terms:
        """`loss` over the queries of one episode; `batch.roles` tells support (0) from query (1)."""
        if batch.labels is None or batch.roles is None:
            raise InvalidInput("an episode needs labels and roles.")
        is_support = batch.roles == SUPPORT
        support, query = self._encode(batch, is_support)
        labels = batch.labels[is_support]
        classes = torch.unique(labels)
        names = tuple(str(int(label)) for label in classes)
        with torch.autocast(labels.device.type, enabled=False):  # distances and softmax need float32
            chosen = Support(_full(support), membership_from_labels(labels), names)
            scores = self.head.condition(chosen).scores(_full(query)) / self.temperature
        targets = torch.searchsorted(classes, batch.labels[~is_support])
        self._accuracy = (scores.detach().argmax(1) == targets).float().mean()
        return Terms({"episode": episode_loss(scores, targets)})

    def _encode(self, batch: Batch, is_support: Tensor) -> tuple[Features, Features]:
        if batch.features is not None:
            return batch.features.rows(is_support), batch.features.rows(~is_support)
        images = batch.images[0]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encoder.encode_episode(images[is_support], images[~is_support], self.head.request)

    def watched(self) -> dict[str, Tensor]:
        """Accuracy of the last episode's queries."""
        return {"accuracy": self._accuracy}
