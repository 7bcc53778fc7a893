"""A model as one network from pixels to answers, in a form that can be traced for other runtimes.

The arithmetic is that of the faces; only the bounds on memory are left out (chunks of queries, tiles of attention),
since a traced graph cannot hold a loop whose length depends on its input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.features import Features, Request, pool
from fewsight.classifier import FewShotClassifier
from fewsight.errors import InvalidInput
from fewsight.heads.crosstransformer import ConditionedCrossTransformer
from fewsight.heads.neighbours import Neighbours, class_votes
from fewsight.heads.vectors import ConditionedVectors, unit

__all__ = ["Answers", "PhotoGraph", "Pixels", "classifier_answers", "linear_answers", "vector_answers"]

Pixels = Literal["uint8", "float"]
Scores = Callable[[Features], Tensor]


@dataclass(frozen=True)
class Answers:
    """What is computed from a backbone's features.

    Attributes:
        names: of the outputs, in order.
        request: what the backbone is asked for.
        of: features of N photos -> one tensor for each name, N rows each.
    """

    names: tuple[str, ...]
    request: Request
    of: Callable[[Features], tuple[Tensor, ...]]


class PhotoGraph(nn.Module):
    """Photos to answers: normalisation, backbone, head, calibration.

    Args:
        backbone: its mean and standard deviation become part of the graph.
        answers: see there.
        pixels: `uint8`: photos `[N, H, W, 3]`, RGB from 0 to 255, as decoders give them; `float`: `[N, 3, H, W]` from 0
            to 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, answers: Answers, pixels: Pixels = "uint8") -> None:
        super().__init__()
        self.backbone, self.answers, self.pixels = backbone.float(), answers, pixels
        self.register_buffer("mean", torch.tensor(backbone.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(backbone.std)[:, None, None])
        self.eval()  # all of it: the exporter puts back the mode that it found

    def forward(self, photos: Tensor) -> tuple[Tensor, ...]:
        """The answers, each with a row for each photo."""
        if self.pixels == "uint8":
            photos = photos.permute(0, 3, 1, 2).float() / 255
        images = (photos - self.mean) / self.std
        return self.answers.of(self.backbone.features(images, self.answers.request))


def vector_answers(backbone: Backbone) -> Answers:
    """The vector of each photo, `[N, D]`, as `Backbone.forward` gives it."""
    return Answers(("vectors",), Request(), lambda features: (pool(features, backbone.pooling).float(),))


def linear_answers(backbone: Backbone, weight: Tensor, bias: Tensor) -> Answers:
    """Scores and probabilities of a linear layer on the vectors: weight `[K, D]`, bias `[K]`."""

    def answered(features: Features) -> tuple[Tensor, Tensor]:
        scores = F.linear(pool(features, backbone.pooling).float(), weight, bias)
        return scores, torch.softmax(scores, dim=1)

    return Answers(("scores", "probabilities"), Request(), answered)


def classifier_answers(classifier: FewShotClassifier) -> Answers:
    """Scores, calibrated probabilities and novelty of a fitted classifier on photos.

    Raises:
        InvalidInput: its head has no form for other runtimes.
    """
    backbone, trust = classifier.photo_encoder().backbone, classifier.trust_
    scores, novelty = _scores(classifier.conditioned_), _scores(classifier.novelty_)

    def answered(features: Features) -> tuple[Tensor, ...]:
        found = scores(features).float()
        vectors = Features(cls=pool(features, backbone.pooling))
        return found, trust.probabilities(found), -novelty(vectors).float().amax(1)

    return Answers(("scores", "probabilities", "novelty"), classifier.head_.request, answered)


def _scores(conditioned: object) -> Scores:
    """`conditioned.scores` without loops over parts of the queries."""
    if isinstance(conditioned, ConditionedCrossTransformer):
        return _aligned(conditioned)
    if isinstance(conditioned, ConditionedVectors):
        head, tensors = conditioned.head, conditioned.tensors
        if isinstance(head, Neighbours):
            supports, membership = tensors["unit"], tensors["membership"]

            def votes(features: Features) -> Tensor:
                similarity = unit(head.vectors(features).to(supports.dtype)) @ supports.T
                return class_votes(similarity, membership, head.k, head.temperature)

            return votes
        return conditioned.scores
    raise InvalidInput(
        f"a head of type {type(conditioned).__name__.removeprefix('Conditioned')} has no form for other runtimes; use "
        "prototypes, logistic, neighbours, matching or crosstransformer."
    )


def _aligned(conditioned: ConditionedCrossTransformer) -> Scores:
    """CrossTransformers, class after class: minus the mean squared distance to the aligned prototypes."""

    def scores(features: Features) -> Tensor:
        keys, values, _ = conditioned.head.project(features)  # [Q, P, D]
        columns, start = [], 0
        for count in conditioned.counts:
            rows = slice(start, start + count)
            start += count
            k, v = (part[rows].flatten(0, 1) for part in (conditioned.keys, conditioned.values))  # [n M, D]
            attention = torch.softmax(keys @ k.T * k.shape[1] ** -0.5, dim=2)  # [Q, P, n M]
            columns.append(-(attention @ v - values).square().sum(2).mean(1))
        return torch.stack(columns, dim=1)

    return scores
