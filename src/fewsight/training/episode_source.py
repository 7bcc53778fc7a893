"""Training episodes from a store of decoded photos: number of the batch -> `Batch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.data.fixed_episodes import Episode
from fewsight.data.store import PixelStore
from fewsight.data.transform import Transform
from fewsight.objectives.objective import Batch
from fewsight.objectives.simclr_episodes import SimclrEpisodes
from fewsight.training.balanced_source import normalised as normalised_in_place

__all__ = ["EpisodeSource", "Episodes", "normalised", "rotated_classes"]


def rotated_classes(by_class: Sequence[NDArray[numpy.int64]], count: int) -> list[NDArray[numpy.int64]]:
    """Rows of four times the classes: those turned by 0, 90, 180 and 270 degrees (Santoro et al. 2016).

    Row r turned k times is row r + k * count, where `count` is the number of photos.
    """
    return [rows + turns * count for rows in by_class for turns in range(4)]


def normalised(pixels: Tensor, transform: Transform) -> Tensor:
    """uint8, or float in [0, 1], `[B, 3, H, W]` -> float32, by the transform's mean and std."""
    unit = pixels.clone() if pixels.is_floating_point() else pixels.float() / 255
    return normalised_in_place(unit, transform)


class Episodes(Protocol):
    """Draws episode i as a function of (seed, i) alone: `FixedEpisodes`, `VariableEpisodes`."""

    @property
    def seed(self) -> int:
        """Of the draws."""

    def __getitem__(self, index: int) -> Episode:
        """Episode `index`."""


@dataclass(frozen=True)
class EpisodeSource:
    """Makes the batch of one episode: supports first, then queries.

    Attributes:
        store: pixels of all photos.
        episodes: which rows; rows of `rotated_classes` are allowed.
        transform: mean and std.
        simclr: which episodes ask for the photo instead of the class; None for none, as in evaluation.
    """

    store: PixelStore
    episodes: Episodes
    transform: Transform
    simclr: SimclrEpisodes | None = None

    def __call__(self, number: int) -> Batch:
        episode, seed = self.episodes[number], self.episodes.seed
        rows = numpy.concatenate([episode.support, episode.query])
        labels = torch.from_numpy(numpy.concatenate([episode.support_way, episode.query_way]))
        roles = torch.from_numpy(_roles(episode))
        pixels, index = self._pixels(rows), torch.from_numpy(rows)
        if self.simclr is not None:
            changed = self.simclr.converted(pixels, labels, roles, seed=seed, step=number)
            pixels, labels, roles, index = (
                changed.images,
                changed.labels,
                changed.roles,
                index[changed.rows],
            )
        return Batch(
            images=(normalised(pixels, self.transform),),
            labels=labels,
            roles=roles,
            index=index,
            step=number,
            seed=seed,
        )

    def _pixels(self, rows: NDArray[numpy.int64]) -> Tensor:
        turns, photo = numpy.divmod(rows, len(self.store))
        pixels = self.store.rows(photo)
        for turn in (1, 2, 3):
            chosen = torch.from_numpy(turns == turn)
            if chosen.any():
                pixels[chosen] = torch.rot90(pixels[chosen], turn, dims=(2, 3))
        return pixels


def _roles(episode: Episode) -> NDArray[numpy.int64]:
    return numpy.concatenate([numpy.zeros(len(episode.support), int), numpy.ones(len(episode.query), int)])
