"""Training episodes from a store of decoded photos: number of the batch -> `Batch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.data.fixed_episodes import Episode, FixedEpisodes
from fewsight.data.store import PixelStore
from fewsight.data.transform import Transform
from fewsight.objectives.objective import Batch

__all__ = ["EpisodeSource", "normalised", "rotated_classes"]


def rotated_classes(by_class: Sequence[NDArray[numpy.int64]], count: int) -> list[NDArray[numpy.int64]]:
    """Rows of four times the classes: those turned by 0, 90, 180 and 270 degrees (Santoro et al. 2016).

    Row r turned k times is row r + k * count, where `count` is the number of photos.
    """
    return [rows + turns * count for rows in by_class for turns in range(4)]


def normalised(pixels: Tensor, transform: Transform) -> Tensor:
    """uint8 `[B, 3, H, W]` -> float32, by the transform's mean and std."""
    mean = torch.tensor(transform.mean)[:, None, None]
    std = torch.tensor(transform.std)[:, None, None]
    return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class EpisodeSource:
    """Makes the batch of one episode: supports first, then queries.

    Attributes:
        store: pixels of all photos.
        episodes: which rows; rows of `rotated_classes` are allowed.
        transform: mean and std.
    """

    store: PixelStore
    episodes: FixedEpisodes
    transform: Transform

    def __call__(self, number: int) -> Batch:
        episode = self.episodes[number]
        rows = numpy.concatenate([episode.support, episode.query])
        labels = numpy.concatenate([episode.support_way, episode.query_way])
        return Batch(
            images=(normalised(self._pixels(rows), self.transform),),
            labels=torch.from_numpy(labels),
            roles=torch.from_numpy(_roles(episode)),
            index=torch.from_numpy(rows),
            step=number,
            seed=self.episodes.seed,
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
