"""What a head is: supports + queries -> scores. `Support`, `Head`, `Conditioned`.

A head holds settings and, if it was trained, parameters. `condition(support)` reads the supports once and gives
a `Conditioned`: a value that scores any number of queries, can be saved, extended by a class and reduced by one
without the old photos.

Letters: S supports, K classes, Q queries, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fewsight.backbones.features import Features, Request
from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["Conditioned", "DenseConditioned", "Head", "Segmented", "Support", "membership_from_labels"]


@dataclass(frozen=True)
class Support:
    """The labelled photos of a task.

    One class, one shot, unequal shots and several labels an image are legal.

    Attributes:
        features: of the S support images.
        membership: bool [S, K], True where image s belongs to class k; each class has at least one image.
        names: of the K classes.
        masks: foreground of the support images, one bool [H, W] each (the sizes may differ), or None for an
            image without one; for an image with several classes an int map: 0 background, k + 1 = class k.
    """

    features: Features
    membership: Tensor
    names: tuple[str, ...]
    masks: tuple[Tensor | None, ...] | None = None

    def __post_init__(self) -> None:
        sizes = check_shapes(membership=(self.membership, "S K"))
        if sizes["S"] != self.features.num_images or sizes["K"] != len(self.names):
            raise InvalidInput(
                f"membership has shape {list(self.membership.shape)}, but there are {self.features.num_images} support "
                f"images and {len(self.names)} class names."
            )
        empty = [
            name for name, count in zip(self.names, self.membership.sum(0).tolist(), strict=True) if not count
        ]
        if empty:
            raise InvalidInput(
                f"class {empty[0]!r} has no support image; give at least one, or leave the class out."
            )
        if self.masks is not None and len(self.masks) != sizes["S"]:
            raise InvalidInput(f"there are {len(self.masks)} masks for {sizes['S']} support images.")

    @property
    def shots(self) -> Tensor:
        """Images of each class, int [K]."""
        return self.membership.sum(0)

    def rows(self, index: Tensor) -> Support:
        """The supports at `index` (long [S']), with the classes that still have an image."""
        membership = self.membership[index]
        kept = membership.any(0)
        names = tuple(name for name, keep in zip(self.names, kept.tolist(), strict=True) if keep)
        masks = None if self.masks is None else tuple(self.masks[i] for i in index.tolist())
        return Support(self.features.rows(index), membership[:, kept], names, masks)


def membership_from_labels(labels: Tensor) -> Tensor:
    """Bool [S, K] of integer labels [S]; columns = sorted distinct labels.

    >>> membership_from_labels(torch.tensor([5, 2, 5])).tolist()
    [[False, True], [True, False], [False, True]]
    """
    return labels[:, None] == torch.unique(labels)[None, :]


@runtime_checkable
class Conditioned(Protocol):
    """A head that has read its supports. A value: every change gives a new one."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the K classes, in the order of the columns."""

    def scores(self, queries: Features) -> Tensor:
        """`[Q, K]`, larger = more alike, one column for each of `names`."""

    def with_class(self, name: str, features: Features) -> Conditioned:
        """The same with one more class, from its photos alone."""

    def without_class(self, name: str) -> Conditioned:
        """The same without one class."""

    def state(self) -> Mapping[str, Tensor]:
        """Everything `Head.restore` needs, as tensors for a model folder."""


@dataclass(frozen=True)
class Segmented:
    """What a dense head says of Q queries: presence [Q, K] and foreground [Q, K, H, W], both larger = more."""

    presence: Tensor
    foreground: Tensor


class DenseConditioned(Conditioned, Protocol):
    """A conditioned head that also says where."""

    def segment(self, queries: Features, size: tuple[int, int]) -> Segmented:
        """Presence and foreground of each class at `size` = (height, width)."""


class Head(nn.Module, ABC):
    """Settings and parameters of a method that compares queries with supports.

    Attributes:
        request: what the head needs of the backbone.
    """

    request: Request = Request()

    @abstractmethod
    def condition(self, support: Support) -> Conditioned:
        """Read the supports once."""

    @abstractmethod
    def restore(self, names: Sequence[str], state: Mapping[str, Tensor]) -> Conditioned:
        """The inverse of `Conditioned.state`."""

    def leave_one_out(self, support: Support) -> Tensor:
        """Scores of every support image under the head without that image, `[S, K]`.

        A class that has no other image gets -inf. Heads with a closed form override this.
        """
        count, ways = support.membership.shape
        scores = torch.full((count, ways), -torch.inf)
        everyone = torch.arange(count)
        for left_out in range(count):
            others = everyone[everyone != left_out]
            kept = support.membership[others].any(0)
            if kept.any():
                row = self.condition(support.rows(others)).scores(
                    support.features.rows(everyone[left_out : left_out + 1])
                )
                scores[left_out, kept] = row[0].to(scores.dtype)
        return scores
