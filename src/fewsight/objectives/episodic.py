"""Episodic training: a head reads the supports of a small task, and its scores of the queries are classified.

Oriol Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016 (training on episodes); the head decides
which method it is: with `Prototypes(metric="euclidean")` it is Prototypical Networks (Snell et al. 2017, equation 2),
with `CrossTransformer` it is CrossTransformers (Doersch et al. 2020, section 3).

    loss = mean over queries of -log softmax(scores)[own class]

Any head, any backbone; a frozen backbone gets no gradient and runs in evaluation mode.

An episode of any size fits (`EpisodeMemory`): at most `chunk` images stand in a graph, by gradient caching, which is
exact where no image's features depend on another's. On several processes one episode is split: each encodes and scores
its share, the supports' features are gathered; loss and gradients are those of one process. Networks that norm by
the moments of a batch cannot be cut so: they keep the whole episode in one graph and on every process, except that
batch norm on support moments (`backbones/support_norm.py`) has a form of its own, in which the supports are one graph
that is computed again block by block, and the queries come in chunks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewsight import distributed
from fewsight.backbones.backbone import Backbone
from fewsight.backbones.features import Features, concatenate
from fewsight.backbones.support_norm import EncodesThroughMoments
from fewsight.errors import InvalidInput
from fewsight.gradients.cache import cached_backward
from fewsight.gradients.lite import draw_subset, subset_gradients
from fewsight.heads.head import Head, Support, membership_from_labels
from fewsight.objectives.objective import Batch, Objective, Sampling, Terms
from fewsight.objectives.packed_features import pack

__all__ = ["EpisodeMemory", "Episodic", "episode_loss"]

SUPPORT, QUERY = 0, 1  # `Batch.roles`


@dataclass(frozen=True)
class EpisodeMemory:
    """How much of an episode stands in a graph at once.

    Attributes:
        chunk: images at most; None for the whole episode. Exact: one more forward pass of the backbone is its price.
        lite: supports through which the gradient flows, drawn anew for each episode, their part scaled up (LITE,
            Bronskill et al. 2021): unbiased, not exact; None for all of them.
    """

    chunk: int | None = None
    lite: int | None = None

    def __post_init__(self) -> None:
        for name in ("chunk", "lite"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInput(f"{name} is {value}; expected at least 1, or none.")
        if self.lite is not None and self.chunk is None:
            raise InvalidInput(
                f"lite is {self.lite} without chunk: give the images in a graph too, as chunk: 32."
            )


def episode_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of queries, in float32 at least.

    Args:
        scores: `[Q, K]`, larger = more alike.
        targets: column of each query's class, int `[Q]`.
    """
    scores = scores if scores.dtype == torch.float64 else scores.float()
    return nn.functional.cross_entropy(scores, targets)


@dataclass(frozen=True)
class _Share:
    """What one process does of an episode: rows of its supports and queries, and the labels of all supports.

    `first` is the number of its first support among all.
    """

    support: Tensor
    query: Tensor
    first: int
    support_labels: Tensor
    query_labels: Tensor
    split: bool


def _kept_first(share: _Share, kept: Tensor | None) -> Tensor:
    """Order of supports and queries in which those without gradient come last, so that no chunk mixes them much."""
    order = torch.arange(len(share.support) + len(share.query))
    if kept is None:
        return order
    numbers = torch.arange(len(share.support)) + share.first
    last = torch.zeros(len(order), dtype=torch.bool)
    last[: len(numbers)] = ~torch.isin(numbers, kept.cpu())
    return torch.argsort(last, stable=True)


def _full(features: Features) -> Features:
    return features.map(lambda tensor: tensor if tensor.dtype == torch.float64 else tensor.float())


class Episodic(Objective):
    """Trains a backbone and a head on episodes.

    Args:
        backbone: encodes supports and queries.
        head: conditions on the supports; its own parameters are trained too.
        temperature: the scores are divided by it before the softmax; a head with a scale of its own keeps 1.
        frozen: keep the backbone as it is.
        memory: bound of the graph.
        penalty: times the sum of squares of all matrices and kernels is added to the loss (CrossTransformers'
            weight decay, which their gradient normalisation sees).
    """

    sampling: Sampling = "episodes"

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        *,
        temperature: float = 1.0,
        frozen: bool = False,
        memory: EpisodeMemory | None = None,
        penalty: float = 0.0,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise InvalidInput(f"temperature is {temperature}; expected a positive number.")
        if not penalty >= 0:
            raise InvalidInput(f"penalty is {penalty}; expected 0 or more.")
        self.encoder, self.head = backbone, head
        self.temperature, self.frozen, self.penalty = temperature, frozen, penalty
        self.memory = memory or EpisodeMemory()
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
        """`loss` over the queries of one episode; `batch.roles` tells support (0) from query (1).

        On several processes in training it is this process's part: the mean over them is the loss.
        """
        share = self._share(batch)
        support, query = self._encode(batch, share)
        return self._terms(support, query, share, batch)

    def backward(self, batch: Batch, scale: float = 1.0) -> Terms:
        """As `Objective.backward`, within `memory`."""
        if self.memory.chunk is None or batch.features is not None or self.frozen:
            return super().backward(batch, scale)
        if self.encoder.couples_images:
            return self._backward_through_moments(batch, scale)
        share = self._share(batch)
        order = _kept_first(share, self._kept(share, batch))
        images = batch.images[0][torch.cat([share.support, share.query])[order]]
        found: list[Terms] = []
        with torch.no_grad():
            layout = pack(self.encoder.features(images[:1], self.head.request))

        def loss(rows: Tensor) -> Tensor:
            features = layout.features(rows[torch.argsort(order)])
            supports = slice(None, len(share.support)), slice(len(share.support), None)
            support, query = (features.rows(side) for side in supports)
            found.append(self._terms(support, query, share, batch))
            return found[0].total

        cached_backward(
            lambda part: pack(self.encoder.features(part, self.head.request)).rows,
            loss,
            images,
            chunk=self.memory.chunk,
            scale=scale,
        )
        return Terms({name: value.detach() for name, value in found[0].values.items()}, found[0].weights)

    def _backward_through_moments(self, batch: Batch, scale: float) -> Terms:
        """Queries in chunks, given the supports' moments; the supports in one graph, computed again block by block."""
        if not isinstance(self.encoder, EncodesThroughMoments):
            raise InvalidInput(
                f"{self.encoder.name} norms by the moments of a batch, which chunk: {self.memory.chunk} would change. "
                "Leave chunk out, or take a network without such norms, as conv4 with norm: group, or resnet34-s16."
            )
        share, images = self._share(batch), batch.images[0]
        support, moments = self.encoder.encode_supports(images[share.support], over_ranks=share.split)
        packed = pack(support)
        leaf = packed.rows.detach().requires_grad_()
        handed = {module: value.detach().requires_grad_() for module, value in moments.items()}
        encoder, found = self.encoder, []

        def loss(rows: Tensor) -> Tensor:
            found.append(self._terms(packed.features(leaf), packed.features(rows), share, batch))
            return found[0].total

        cached_backward(
            lambda part: pack(encoder.encode_queries(part, handed)).rows,
            loss,
            images[share.query],
            chunk=self.memory.chunk or len(images),
            scale=scale,
        )
        ends = [(packed.rows, leaf.grad), *((moments[m], value.grad) for m, value in handed.items())]
        reached = [(end, gradient) for end, gradient in ends if gradient is not None]
        torch.autograd.backward([end for end, _ in reached], [gradient for _, gradient in reached])
        return Terms({name: value.detach() for name, value in found[0].values.items()}, found[0].weights)

    def _share(self, batch: Batch) -> _Share:
        if batch.labels is None or batch.roles is None:
            raise InvalidInput("an episode needs labels and roles.")
        rows = tuple((batch.roles == role).nonzero()[:, 0] for role in (SUPPORT, QUERY))
        labels = batch.labels[rows[SUPPORT]]
        world = distributed.world_size()
        split = self.training and world > 1 and min(map(len, rows)) >= world
        split = split and (self._separable or self._hands_moments)
        parts = [part.tensor_split(world) if split else (part,) for part in rows]
        own = distributed.rank() if split else 0
        support, query = (part[own] for part in parts)
        first = sum(map(len, parts[SUPPORT][:own]))
        return _Share(support, query, first, labels, batch.labels[query], split)

    @property
    def _separable(self) -> bool:
        """Whether no image's features depend on the others of its batch."""
        return self.frozen or not self.encoder.couples_images

    @property
    def _hands_moments(self) -> bool:
        """Whether batch moments are those of the supports of all processes."""
        return self.memory.chunk is not None and isinstance(self.encoder, EncodesThroughMoments)

    def _terms(self, support: Features, query: Features, share: _Share, batch: Batch) -> Terms:
        support, query = _full(support), _full(query)
        if share.split:
            support = support.map(distributed.gather)
        kept = self._kept(share, batch)
        if kept is not None:
            support = support.map(lambda tensor: subset_gradients(tensor, kept))
        classes = torch.unique(share.support_labels)
        names = tuple(str(int(label)) for label in classes)
        with torch.autocast(classes.device.type, enabled=False):  # distances and softmax need float32
            chosen = Support(support, membership_from_labels(share.support_labels), names)
            scores = self.head.condition(chosen).scores(query) / self.temperature
        targets = torch.searchsorted(classes, share.query_labels)
        loss = episode_loss(scores, targets)
        right = (scores.detach().argmax(1) == targets).float().mean()
        if share.split:  # so that the mean over processes is the mean over queries
            part = len(targets) / float(distributed.global_rows(len(targets), loss.device))
            loss = loss * part
            right = distributed.all_reduce_sum(right * part) / distributed.world_size()
        self._accuracy = right
        return Terms({"episode": loss} | self._penalties(loss))

    def _penalties(self, loss: Tensor) -> dict[str, Tensor]:
        if not self.penalty or not self.training:
            return {}
        squares = [p.square().sum() for p in self.parameters() if p.requires_grad and p.ndim > 1]
        return {"penalty": self.penalty * torch.stack(squares).sum().to(loss)}

    def _kept(self, share: _Share, batch: Batch) -> Tensor | None:
        """Supports of the whole episode whose gradient is kept; None for all."""
        if self.memory.lite is None or not self.training:
            return None
        kept = draw_subset(len(share.support_labels), self.memory.lite, seed=batch.seed, step=batch.step)
        return kept.to(share.support_labels.device)

    def _encode(self, batch: Batch, share: _Share) -> tuple[Features, Features]:
        if batch.features is not None:
            return batch.features.rows(share.support), batch.features.rows(share.query)
        images = batch.images[0]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if self.memory.chunk is not None and not torch.is_grad_enabled() and self._separable:
                return self._in_chunks(images[share.support]), self._in_chunks(images[share.query])
            return self.encoder.encode_episode(images[share.support], images[share.query], self.head.request)

    def _in_chunks(self, images: Tensor) -> Features:
        parts = images.split(self.memory.chunk or len(images))
        return concatenate([self.encoder.features(part, self.head.request) for part in parts])

    def watched(self) -> dict[str, Tensor]:
        """Accuracy of the last episode's queries."""
        return {"accuracy": self._accuracy}
