"""What an objective is: a batch -> a loss by term. `Batch`, `Terms`, `Objective`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fewsight.backbones.features import Features
from fewsight.data.views import ViewSpec

__all__ = ["Batch", "Objective", "Progress", "Sampling", "Terms"]

Sampling = Literal["instances", "balanced", "episodes", "features"]


@dataclass(frozen=True)
class Batch:
    """One step's data, built by the loop as the objective's `sampling` and `views` ask.

    Attributes:
        images: one tensor `[B_v, 3, H_v, W_v]` for each view, normalised; empty where `features` is given.
        features: stored features of the images, for objectives that train on frozen ones.
        labels: int [B] or bool [B, K]; None without labels.
        masks: int [B, H, W], 0 background, 255 void; None without masks.
        roles: int [B], 0 = support, 1 = query; None outside episodes.
        index: int [B], position of each image in its collection.
        step: of the run, counted from 0; what the objective draws is a function of (seed, step).
        seed: of the run.
    """

    images: tuple[Tensor, ...] = ()
    features: Features | None = None
    labels: Tensor | None = None
    masks: Tensor | None = None
    roles: Tensor | None = None
    index: Tensor | None = None
    step: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Terms:
    """Named scalar losses and their weights; `total` is the weighted sum that is minimised."""

    values: Mapping[str, Tensor]
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """Weighted sum; a term of weight 0 is left out (0 times an infinite gradient is NaN)."""
        weighted = [
            self.weights.get(name, 1.0) * value
            for name, value in self.values.items()
            if self.weights.get(name, 1.0)
        ]
        return torch.stack(weighted).sum()


@dataclass(frozen=True)
class Progress:
    """Where a run is: `step` of `total_steps`, both counted in optimiser steps."""

    step: int
    total_steps: int

    @property
    def fraction(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return min(1.0, self.step / max(1, self.total_steps))


class Objective(nn.Module, ABC):
    """A method to train: owns its backbone, heads and, where it has one, its teacher.

    Attributes:
        sampling: what a batch is made of: `instances` (photos without labels), `balanced` (P classes x K
            photos), `episodes` (support and query), `features` (stored features).
        settings_type: frozen dataclass that a recipe's settings become; the constructor takes (backbone, settings).
            None where the constructor takes something else.
        views: the augmented views of a photo that `Batch.images` holds, in this order; empty = one plain view.
    """

    sampling: Sampling = "instances"
    settings_type: ClassVar[type | None] = None
    views: tuple[ViewSpec, ...] = ()

    @abstractmethod
    def forward(self, batch: Batch) -> Terms:
        """The losses of one batch."""

    @abstractmethod
    def backbone(self) -> nn.Module:
        """What is kept when training ends."""

    def trained_backbone(self) -> nn.Module:
        """The backbone that gets gradients; another than `backbone()` where an average of it is kept."""
        return self.backbone()

    def undecayed(self) -> tuple[nn.Parameter, ...]:
        """Parameters without weight decay besides vectors."""
        return ()

    def backward(self, batch: Batch, scale: float = 1.0) -> Terms:
        """Add the gradient of `scale * total` to `.grad`; return the detached terms.

        Objectives with exact gradient caching override this; `scale` serves gradient accumulation.
        """
        terms = self(batch)
        (terms.total * scale).backward()  # type: ignore[no-untyped-call]
        return Terms({name: value.detach() for name, value in terms.values.items()}, terms.weights)

    def before_step(self, progress: Progress) -> None:
        """Called before the batches of each optimiser step (temperatures, what is frozen for now)."""
        return

    def after_step(self, progress: Progress) -> None:
        """Called after each optimiser step (teacher averages, centres)."""
        return

    def watched(self) -> dict[str, Tensor]:
        """What the collapse alarms read, from the last batch; detached."""
        return {}
