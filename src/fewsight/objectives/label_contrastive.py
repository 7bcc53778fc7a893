"""Label-aware contrastive loss: every other view of the same class is a positive.

Prannay Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020 (arXiv 2004.11362), equations 2 and 3; used to
adapt vision transformers by Zijun Long et al., "LaCViT: A Label-aware Contrastive Training Framework for Vision
Transformers", ICASSP 2024 (arXiv 2303.18013). With M vectors z (all views), s_ij = z_i.z_j / temperature,
P(i) the other vectors of the class of i and A(i) all vectors but i:

    L_out,i = lse_{A(i)}(s_i) - mean_{p in P(i)} s_ip
    L_in,i  = lse_{A(i)}(s_i) - lse_{P(i)}(s_i) + log |P(i)|
    loss    = temperature / base_temperature * mean over anchors

Hard negatives (Joshua Robinson et al., ICLR 2021, arXiv 2010.04592, tau_plus = 0) replace the sum over A(i) by

    sum_{p in P(i)} e^{s_ip} + |N(i)| sum_{n in N(i)} e^{(1 + beta) s_in} / sum_{n in N(i)} e^{beta s_in}

Value and gradient come from one sweep over blocks of anchors (`anchor_losses`); no M x M matrix exists.

On several processes every rank holds its own images; all are gathered into one contrast set, and the mean of the ranks'
losses is the loss of one process. The authors' code contrasts each GPU's images with one another only.

Differs from the authors' code: the vector itself is left out before the maximum is taken (theirs underflows to NaN for
vectors that are not of unit length); anchors without a positive leave the mean unless `singletons="zero"`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone
from fewsight.distributed import gather, global_rows, rows_before
from fewsight.errors import InvalidInput
from fewsight.gradients.cache import cached_backward
from fewsight.objectives.anchor_losses import AnchorLosses, anchor_losses
from fewsight.objectives.objective import Batch, Objective, Sampling, Terms
from fewsight.shapes import check_shapes

__all__ = [
    "AnchorLosses",
    "LabelContrastive",
    "LabelContrastiveSettings",
    "anchor_losses",
    "label_contrastive_loss",
]

ALL_EQUAL = 0.999  # mean cosine from which vectors count as equal


def label_contrastive_loss(
    features: Tensor,
    labels: Tensor | None,
    *,
    temperature: float = 0.1,
    base_temperature: float | None = None,
    variant: Literal["out", "in"] = "out",
    anchors: Literal["all", "first"] = "all",
    singletons: Literal["skip", "zero"] = "skip",
    hard_negative_beta: float = 0.0,
    normalize: bool = False,
    gradient_dtype: torch.dtype | None = None,
) -> Tensor:
    """The loss of V views of N images (Khosla et al. 2020, equations 2 and 3).

    Args:
        features: `[N, V, D]`, usually of unit length; half types are raised to float32.
        labels: class ids `[N]`, or None: every image is its own class (SimCLR with V views).
        temperature: divides the dot products, above 0.
        base_temperature: multiplies the loss by temperature / base_temperature; None for 1.
        variant: `out` averages the positives outside the logarithm (published), `in` inside.
        anchors: every view is an anchor, or the first of each image.
        singletons: anchors without a positive leave the mean, or count in it with loss 0 (the authors' code).
        hard_negative_beta: weight of hard negatives, at least 0; 0 weighs all alike.
        normalize: bring the vectors to unit length first.
        gradient_dtype: dtype of the two products that make the gradient, for instance bfloat16; the loss itself
            stays exact. None for that of the features.

    Returns:
        A scalar, 0 with zero gradient where no anchor has a positive. Differentiable once.

    Raises:
        InvalidInput: a shape, a range or a word is wrong.

    >>> views = torch.eye(3).repeat_interleave(2, 0).view(3, 2, 3)
    >>> label_contrastive_loss(views, torch.tensor([0, 1, 2]), temperature=1.0)
    tensor(0.9048)
    """
    N, V, D = check_shapes(features=(features, "N V D")).values()
    _check_settings(features, temperature, base_temperature, hard_negative_beta)
    for name, word, words in (
        ("variant", variant, ("out", "in")),
        ("anchors", anchors, ("all", "first")),
        ("singletons", singletons, ("skip", "zero")),
    ):
        if word not in words:
            raise InvalidInput(f"{name} is {word!r}; expected {words[0]!r} or {words[1]!r}.")
    own = features.reshape(N * V, D).to(torch.promote_types(features.dtype, torch.float32))
    own = F.normalize(own, dim=1, eps=1e-12) if normalize else own
    classes = _classes(labels, features).repeat_interleave(V)  # [N V], image after image
    step = V if anchors == "first" else 1
    losses = anchor_losses(
        gather(own),
        gather(classes),
        rows_before(own) + torch.arange(0, N * V, step, device=features.device),
        temperature=temperature,
        variant=variant,
        hard_negative_beta=hard_negative_beta,
        gradient_dtype=gradient_dtype,
    )
    count = global_rows(losses.counted if singletons == "skip" else losses.anchors, features.device)
    factor = 1.0 if base_temperature is None else temperature / base_temperature
    return losses.total * (
        factor / (float(count) or 1.0)
    )  # a number: single precision would round the factor


def _classes(labels: Tensor | None, features: Tensor) -> Tensor:
    """Class ids `[N]`; without labels every image of all processes is its own class."""
    images, device = len(features), features.device
    if labels is None:
        return rows_before(features) + torch.arange(images, device=device)
    if tuple(labels.shape) != (images,):
        raise InvalidInput(
            f"labels have shape {list(labels.shape)}; expected [{images}], one for each image."
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise InvalidInput(f"labels have dtype {labels.dtype}; expected integer class ids.")
    return labels.to(device)


def _check_settings(
    features: Tensor, temperature: float, base_temperature: float | None, beta: float
) -> None:
    if not features.is_floating_point():
        raise InvalidInput(f"features have dtype {features.dtype}; expected floating-point vectors.")
    if not features.shape[0] or not features.shape[1]:
        raise InvalidInput(
            f"features have shape {list(features.shape)}; expected at least one image and view."
        )
    for name, value in (("temperature", temperature), ("base_temperature", base_temperature)):
        if value is not None and not 0 < value < float("inf"):
            raise InvalidInput(f"{name} is {value}; expected a positive number.")
    if not 0 <= beta < float("inf"):
        raise InvalidInput(f"hard_negative_beta is {beta}; expected a number of at least 0.")


@dataclass(frozen=True)
class LabelContrastiveSettings:
    """Settings of the objective; defaults of the authors' code but for the base temperature (there 0.07).

    Attributes:
        temperature, base_temperature, variant, anchors, singletons, hard_negative_beta: of the loss.
        projection: width of the vectors that are contrasted; 0 contrasts the backbone's own.
        chunk: images in one graph at most (exact gradient caching); 0 keeps the graph of all.
    """

    temperature: float = 0.1
    base_temperature: float | None = None
    variant: Literal["out", "in"] = "out"
    anchors: Literal["all", "first"] = "all"
    singletons: Literal["skip", "zero"] = "skip"
    hard_negative_beta: float = 0.0
    projection: int = 128
    chunk: int = 0

    def __post_init__(self) -> None:
        for name in ("projection", "chunk"):
            if getattr(self, name) < 0:
                raise InvalidInput(f"{name} is {getattr(self, name)}; expected 0 or more.")
        probe = torch.zeros(1, 1, 1)
        _check_settings(probe, self.temperature, self.base_temperature, self.hard_negative_beta)

    def loss(self, vectors: Tensor, labels: Tensor | None) -> Tensor:
        """Of vectors `[N, V, D]`, normalised inside."""
        return label_contrastive_loss(
            vectors,
            labels,
            temperature=self.temperature,
            base_temperature=self.base_temperature,
            variant=self.variant,
            anchors=self.anchors,
            singletons=self.singletons,
            hard_negative_beta=self.hard_negative_beta,
            normalize=True,
        )

    def projector(self, width: int) -> nn.Module:
        """Linear, ReLU, linear, as the authors' code has it (D -> D -> 128), or nothing."""
        if not self.projection:
            return nn.Identity()
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.projection))


class LabelContrastive(Objective):
    """Stage 1 of LaCViT: the whole encoder and a projector, on any number of views of class-balanced batches.

    Args:
        backbone: is trained; `trained_backbone` decides which parts of it.
        settings: of loss and projector.
    """

    sampling: Sampling = "balanced"

    def __init__(
        self, backbone: Backbone, settings: LabelContrastiveSettings = LabelContrastiveSettings()
    ) -> None:
        super().__init__()
        self.encoder, self.settings = backbone, settings
        self.projector = settings.projector(backbone.vector_dim)
        self._seen: dict[str, Tensor] = {}

    def backbone(self) -> Backbone:
        """The trained encoder; the projector is dropped."""
        return self.encoder

    def projected(self, images: Tensor) -> Tensor:
        """What is contrasted, `[B, projection]`, of images `[B, 3, H, W]`."""
        return self.projector(self.encoder(images))

    def forward(self, batch: Batch) -> Terms:
        """`label_contrastive` of all views of the batch."""
        return Terms({"label_contrastive": self._loss(self.projected(self._images(batch)), batch)})

    def backward(self, batch: Batch, scale: float = 1.0) -> Terms:
        """Exact gradients with at most `chunk` images in one graph."""
        if not self.settings.chunk:
            return super().backward(batch, scale)
        loss = cached_backward(
            self.projected,
            lambda vectors: self._loss(vectors, batch),
            self._images(batch),
            chunk=self.settings.chunk,
            scale=scale,
        )
        return Terms({"label_contrastive": loss})

    def _images(self, batch: Batch) -> Tensor:
        if batch.labels is None or not batch.images or not len(batch.images[0]):
            raise InvalidInput(
                "the label-aware contrastive loss needs labels and at least one view of a photo."
            )
        return torch.cat(batch.images)  # view-major, [V N, 3, H, W]

    def _loss(self, vectors: Tensor, batch: Batch) -> Tensor:
        views = vectors.unflatten(0, (len(batch.images), -1)).transpose(0, 1)  # [N, V, D]
        assert batch.labels is not None
        loss = self.settings.loss(views, batch.labels)
        self._seen = {"loss": loss.detach(), **self._lines(batch.labels, views.shape[1])}
        self._seen["features"] = vectors.detach()
        return loss

    @torch.no_grad()
    def _lines(self, labels: Tensor, views: int) -> dict[str, Tensor]:
        """What the loss of this batch is with equal features, and without any error, over all processes."""
        sizes = torch.unique(gather(labels), return_counts=True)[1] * views  # [C]
        count = int(sizes.sum())
        base = self.settings.base_temperature
        factor = 1.0 if base is None else self.settings.temperature / base
        paired = sizes[sizes > 1].double()
        floor = (paired * (paired - 1).log()).sum() / paired.sum().clamp(min=1)
        return {
            "collapsed_loss": torch.tensor(factor * math.log(max(1, count - 1))),
            "floor": factor * floor.float(),
            "paired": paired.sum().float() / count,
        }

    def watched(self) -> dict[str, Tensor]:
        """`loss` beside `collapsed_loss` (all features equal: log(M - 1)) and `floor` (classes on points far apart).

        `features` are the projected vectors, `paired` the share of vectors with a positive.
        """
        return self._seen

    def alarm(self) -> str | None:
        """What is wrong with the last batch, in words; None where nothing is."""
        if not self._seen:
            return None
        if not float(self._seen["paired"]):
            return (
                "no photo of the batch has a positive, so nothing is learnt: give a second view, or batches with two "
                "photos of a class."
            )
        vectors = F.normalize(self._seen["features"].float(), dim=1)
        cosine = float(vectors.mean(0).square().sum())  # mean over all pairs, each with itself included
        loss, line = float(self._seen["loss"]), float(self._seen["collapsed_loss"])
        if cosine > ALL_EQUAL and len(vectors) > 1:
            return (
                f"the features are all equal (mean cosine {cosine:.4f}): the loss {loss:.3f} stands at log(2B - 1) = "
                f"{line:.3f}. Lower the learning rate, lengthen the warm-up, or train fewer layers."
            )
        return None
