"""Nearest neighbours: the supports most like a query vote for their classes.

Zhirong Wu, Yuanjun Xiong, Stella Yu, Dahua Lin, "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", CVPR 2018 (arXiv 1805.01978), section 3.4; in the form of DINO's k-NN protocol (Caron et al. 2021)
with DINOv2's softmax over the votes:

    p[q, c] = sum over the k nearest supports j of class c of softmax_j(cos(x_q, s_j) / temperature)

Letters: Q queries, N training rows (S supports), K or C classes, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fewsight.backbones.features import Pooling
from fewsight.errors import InvalidInput
from fewsight.heads.head import Support
from fewsight.heads.vectors import VectorHead, check_labels, real, unit
from fewsight.shapes import check_shapes

__all__ = ["Neighbours", "knn_probabilities", "neighbour_votes"]

CHUNK = 2**24  # similarities held at once


def knn_probabilities(
    queries: Tensor,
    train_features: Tensor,
    train_labels: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int | None = None,
) -> Tensor:
    """Votes of the k nearest training rows (Wu et al. 2018; DINO's protocol with k = 10, 20, 100, 200).

    Args:
        queries: `[Q, D]` at unit length.
        train_features: `[N, D]` at unit length.
        train_labels: class ids `[N]` in 0..C-1.
        k: neighbours; cut to N.
        temperature: of the softmax over the votes, positive.
        num_classes: C; the largest label + 1 if not given.

    Returns:
        `[Q, C]`, rows sum to 1.

    Raises:
        InvalidInput: shapes disagree, or a number or label is out of range.
    """
    check_shapes(
        queries=(queries, "Q D"), train_features=(train_features, "N D"), train_labels=(train_labels, "N")
    )
    check_labels(train_labels, train_features)
    _check_numbers(k, temperature)
    largest = int(train_labels.max())
    num_classes = largest + 1 if num_classes is None else num_classes
    if int(train_labels.min()) < 0 or largest >= num_classes:
        raise InvalidInput(
            f"train_labels run from {int(train_labels.min())} to {largest}; expected 0 to {num_classes - 1}."
        )
    train_features = real(train_features, "train_features")
    queries = real(queries, "queries").to(train_features.dtype)
    rows = max(1, CHUNK // len(train_features))
    parts = [
        neighbour_votes(part @ train_features.T, train_labels, k, temperature, num_classes)
        for part in torch.split(queries, rows)
    ]
    return torch.cat(parts) if parts else queries.new_zeros(0, num_classes)


def neighbour_votes(
    similarity: Tensor, labels: Tensor, k: int, temperature: float, num_classes: int
) -> Tensor:
    """Shares of the votes `[Q, C]` of the k most similar of N training rows, for similarities `[Q, N]`."""
    nearest, index = similarity.topk(min(k, similarity.shape[1]), dim=1)
    weights = torch.softmax(nearest / temperature, dim=1)
    votes = similarity.new_zeros(len(similarity), num_classes)
    return votes.scatter_add(1, labels.long()[index], weights)


def _check_numbers(k: int, temperature: float) -> None:
    if k < 1:
        raise InvalidInput(f"k is {k}; expected at least one neighbour.")
    if not 0 < temperature < math.inf:
        raise InvalidInput(f"temperature is {temperature}; expected a positive finite number.")


def class_votes(similarity: Tensor, membership: Tensor, k: int, temperature: float) -> Tensor:
    """Temperature times the log of the summed votes exp(similarity / temperature) of each class, `[Q, K]`.

    One vote gives its own similarity, several give more. A class none of whose supports is among the k nearest has
    the similarity of its nearest support, which is below that of every voter: no class is at -inf, and the order
    stays sensible.

    Args:
        similarity: `[Q, S]`; -inf marks a support that is left out.
        membership: bool `[S, K]`.
        k: how many supports vote.
        temperature: positive.
    """
    Q, S = similarity.shape
    support, label = membership.nonzero(as_tuple=True)  # [M] each
    nearest = similarity.new_full((Q, membership.shape[1]), -torch.inf).scatter_reduce(
        1, label.expand(Q, -1), similarity[:, support], "amax"
    )
    top = similarity.amax(1, keepdim=True)
    top = torch.where(torch.isfinite(top), top, 0)
    least = similarity.topk(min(k, S), dim=1).values[:, -1:]
    votes = torch.where(similarity >= least, ((similarity - top) / temperature).exp(), 0)
    summed = votes @ membership.to(votes.dtype)
    return torch.maximum(nearest, top + temperature * summed.log())


class Neighbours(VectorHead):
    """Scores by the votes of the nearest supports, see `class_votes`.

    Args:
        k: neighbours that vote; cut to the number of supports.
        temperature: of the votes, positive.
        pooling: which tokens serve as the vector of an image.
    """

    temperature_exponent = 1 / 2

    def __init__(self, *, k: int = 20, temperature: float = 0.07, pooling: Pooling = "cls") -> None:
        super().__init__(pooling)
        _check_numbers(k, temperature)
        self.k, self.temperature = int(k), float(temperature)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"k": self.k, "temperature": self.temperature, "pooling": self.pooling}

    def prepare(self, vectors: Tensor, membership: Tensor) -> dict[str, Tensor]:
        """Supports at unit length."""
        return {"unit": unit(vectors)}

    def compare(self, queries: Tensor, prepared: Mapping[str, Tensor]) -> Tensor:
        """`[Q, K]` scores, a soft largest cosine."""
        supports, membership = prepared["unit"], prepared["membership"]
        rows = max(1, CHUNK // max(1, int(membership.sum())))
        parts = [
            class_votes(part @ supports.T, membership, self.k, self.temperature)
            for part in torch.split(unit(queries), rows)
        ]
        return torch.cat(parts) if parts else queries.new_zeros(0, membership.shape[1])

    def leave_one_out(self, support: Support) -> Tensor:
        """Scores of every support without itself, `[S, K]`; -inf where a class has no other."""
        vectors = unit(self.vectors(support.features))
        itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
        similarity = (vectors @ vectors.T).masked_fill(itself, -torch.inf)
        return class_votes(similarity, support.membership, self.k, self.temperature)
