"""Cross-entropy through a linear head, alone or joined with the label-aware contrastive loss.

    logits = W f + b            f the vector of a photo, at unit length times `scale` unless `scale` is None
    loss   = mean over views and photos of -log softmax(logits)[own class]

Joined (the idea of Zijun Long et al., "CLCE", arXiv 2402.14551, and of joint training in general): the head reads the
backbone's vector, the contrastive loss that of a projector. Each term is divided by its value for equal features, so
that one `share` suits any number of classes and any batch:

    loss = (1 - share) CE / log K + share * L_out / log(M - 1)

Full fine-tuning, LP-FT (Ananya Kumar et al., ICLR 2022, arXiv 2202.10054: the head starts as the linear probe), LoRA
and LayerNorm tuning differ in what is trained and where the head starts, not here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone
from fewsight.distributed import global_rows
from fewsight.errors import InvalidInput
from fewsight.objectives.label_contrastive import LabelContrastiveSettings
from fewsight.objectives.objective import Batch, Objective, Sampling, Terms
from fewsight.shapes import check_shapes

__all__ = ["Classification"]


class Classification(Objective):
    """Trains a backbone and a linear head on photos of K classes, any number of views.

    Args:
        backbone: its vector is classified.
        classes: K; labels are 0 .. K - 1.
        scale: length of the vectors that the head reads; None takes them as they are.
        frozen: train the head alone; the backbone stays in evaluation mode.
        contrastive: settings of the joined loss; None for cross-entropy alone.
        share: of the contrastive term, in [0, 1].
    """

    sampling: Sampling = "balanced"

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        *,
        scale: float | None = 1.0,
        frozen: bool = False,
        contrastive: LabelContrastiveSettings | None = None,
        share: float = 0.5,
    ) -> None:
        super().__init__()
        if classes < 2:
            raise InvalidInput(f"classes is {classes}; cross-entropy needs 2 or more.")
        if not 0 <= share <= 1:
            raise InvalidInput(f"share is {share}; expected a share in [0, 1].")
        self.encoder, self.scale, self.frozen = backbone, scale, frozen
        self.contrastive, self.share = contrastive, share
        self.head = nn.Linear(backbone.vector_dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)  # as the authors of LaCViT begin their second stage
        nn.init.zeros_(self.head.bias)
        self.projector = None if contrastive is None else contrastive.projector(backbone.vector_dim)
        if frozen:
            self.encoder.requires_grad_(False)
        self._seen: dict[str, Tensor] = {}

    def backbone(self) -> Backbone:
        """The trained encoder."""
        return self.encoder

    @torch.no_grad()
    def start_head(self, weights: Tensor, intercept: Tensor) -> None:
        """Begin with a linear probe of vectors at unit length: weights `[K, D]` and intercept `[K]`.

        Raises:
            InvalidInput: shapes do not fit, or the head reads vectors of another length.
        """
        K, D = self.head.weight.shape
        check_shapes(weights=(weights, f"{K} {D}"), intercept=(intercept, f"{K}"))
        if self.scale is None:
            raise InvalidInput("scale is None; a probe of unit vectors needs a head that reads unit vectors.")
        self.head.weight.copy_(weights / self.scale)
        self.head.bias.copy_(intercept)

    def train(self, mode: bool = True) -> Classification:
        """Training mode for all but a frozen backbone."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def logits(self, vectors: Tensor) -> Tensor:
        """`[B, K]` of vectors `[B, D]`, in float32."""
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            return self.head(vectors if self.scale is None else self.scale * F.normalize(vectors, dim=1))

    def forward(self, batch: Batch) -> Terms:
        """`cross_entropy`, and `label_contrastive` where it is joined; each divided as the module says."""
        if batch.labels is None or not batch.images or not len(batch.images[0]):
            raise InvalidInput("cross-entropy needs labels and at least one view of a photo.")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            vectors = self.encoder(torch.cat(batch.images))  # view-major, [V N, D]
        labels = batch.labels.repeat(len(batch.images))
        logits = self.logits(vectors)
        # the mean over ranks of these is the mean over the whole batch, however it is shared out
        entropy = F.cross_entropy(logits, labels, reduction="sum") / global_rows(len(labels), labels.device)
        self._seen = {"accuracy": (logits.detach().argmax(1) == labels).float().mean()}
        if self.contrastive is None or self.projector is None:
            return Terms({"cross_entropy": entropy})
        views = self.projector(vectors).unflatten(0, (len(batch.images), -1)).transpose(0, 1)  # [N, V, D]
        contrast = self.contrastive.loss(views, batch.labels)
        weights = {
            "cross_entropy": (1 - self.share) / math.log(logits.shape[1]),
            "label_contrastive": self.share / math.log(max(3, len(labels) - 1)),
        }
        return Terms({"cross_entropy": entropy, "label_contrastive": contrast}, weights)

    def watched(self) -> dict[str, Tensor]:
        """Accuracy of the head on the last batch."""
        return self._seen
