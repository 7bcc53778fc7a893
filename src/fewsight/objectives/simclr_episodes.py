"""SimCLR episodes: some training episodes ask for the photo, not for the class.

Carl Doersch, Ankush Gupta, Andrew Zisserman, "CrossTransformers: spatially-aware few-shot transfer", NeurIPS 2020
(arXiv 2007.11498), section 3.1. An episode of S supports becomes an S-way one-shot task: every support is a class of
its own, the queries are other views of some of the supports. Loss, head and optimiser stay, so any head can be trained
so; with cosines and prototypes the loss is SimCLR's. Its purpose is to keep what tells photos apart, which training
on class labels alone forgets ("supervision collapse").

    u ~ U[0, 1); u > fraction keeps the episode; else
    of class c the first min(n_q(c), n_s(c)) supports become queries, the old queries go
    support j has label j; a query has the label of its support
    every picture is augmented on its own (`data/simclr_views.py`); queries are blurred, supports are not

`SimclrEpisodes()` is the authors' code. Differs from the paper as reviewed, which draws the queries at random
(`selection="random"`) and blurs both sides half of the time (`query_blur`, `support_blur` 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fewsight.data.episodes import simclr_episode
from fewsight.data.simclr_views import SMALLEST, simclr_views
from fewsight.errors import InvalidInput
from fewsight.seeding import torch_generator

__all__ = ["InstanceEpisode", "SimclrEpisodes"]

SUPPORT, QUERY = 0, 1  # roles


class InstanceEpisode(NamedTuple):
    """An episode, supports first: pictures, labels and roles `[B]`, and `rows` `[B]` of the pictures given."""

    images: Tensor
    labels: Tensor
    roles: Tensor
    rows: Tensor


@dataclass(frozen=True)
class SimclrEpisodes:
    """Which training episodes become SimCLR episodes, and how their pictures are augmented.

    Attributes:
        fraction: share of the episodes; 0.5 as published, 0 for none.
        selection: `first` supports of each class become queries (the authors' code), or `random` ones.
        strength: of the colour jitter, 0 to 1.25.
        query_blur, support_blur: probability of the blur on either side.
        smallest_crop: share of the picture in (0, 1]; 0.08 as published for 224 px, more for small pictures.
        augment_others: augment ordinary episodes likewise; it hurts (Doersch et al. 2020, table 1).
    """

    fraction: float = 0.5
    selection: Literal["first", "random"] = "first"
    strength: float = 1.0
    query_blur: float = 1.0
    support_blur: float = 0.0
    smallest_crop: float = SMALLEST
    augment_others: bool = False

    def __post_init__(self) -> None:
        for name in ("fraction", "query_blur", "support_blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; expected a share from 0 to 1.")
        if not 0 < self.smallest_crop <= 1:
            raise InvalidInput(f"smallest_crop is {self.smallest_crop}; expected a share in (0, 1].")
        if self.selection not in ("first", "random"):
            raise InvalidInput(f"selection is {self.selection!r}; expected 'first' or 'random'.")

    def converts(self, seed: int, step: int) -> bool:
        """Whether episode `step` of a run becomes a SimCLR episode; a function of (seed, step)."""
        draw = torch.rand((), generator=torch_generator(seed, "simclr episode", step), dtype=torch.float64)
        return float(draw) < self.fraction

    def converted(
        self, images: Tensor, labels: Tensor, roles: Tensor, *, seed: int, step: int
    ) -> InstanceEpisode:
        """The episode that training sees in place of this one.

        Args:
            images: uint8, or float in [0, 1], `[B, 3, H, W]`.
            labels: class ids, int `[B]`.
            roles: 0 = support, 1 = query, int `[B]`.
            seed, step: of the run and of the episode; what is drawn is a function of them.

        Returns:
            The episode itself where it is not converted and `augment_others` is off.
        """
        rows = torch.cat([(roles == role).nonzero()[:, 0] for role in (SUPPORT, QUERY)])
        supports = int((roles == SUPPORT).sum())
        generator = torch_generator(seed, "simclr views", step)
        if not self.converts(seed, step):
            if not self.augment_others:
                return InstanceEpisode(images, labels, roles, torch.arange(len(images)))
            return InstanceEpisode(
                self._views(images[rows], supports, generator), labels[rows], roles[rows], rows
            )
        own = labels[rows[:supports]]
        order = self._order(supports, seed, step)
        chosen = order[simclr_episode(own[order], labels[rows[supports:]]).query_indices].sort().values
        rows = torch.cat([rows[:supports], rows[:supports][chosen]])
        return InstanceEpisode(
            self._views(images[rows], supports, generator),
            torch.cat([torch.arange(supports), chosen]),
            (torch.arange(len(rows)) >= supports).long(),
            rows,
        )

    def _order(self, supports: int, seed: int, step: int) -> Tensor:
        """Order in which supports are taken as queries."""
        if self.selection == "first":
            return torch.arange(supports)
        return torch.randperm(supports, generator=torch_generator(seed, "simclr queries", step))

    def _views(self, images: Tensor, supports: int, generator: torch.Generator) -> Tensor:
        images = images if images.is_floating_point() else images.float() / 255
        sides = (images[:supports], self.support_blur), (images[supports:], self.query_blur)
        return torch.cat(
            [
                simclr_views(side, generator, strength=self.strength, blur=blur, smallest=self.smallest_crop)
                for side, blur in sides
            ]
        )
