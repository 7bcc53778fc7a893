"""5-way few-shot accuracy of fixed features: 600 episodes, 10 queries a class, cosine to the mean prototype.

Episodes depend on the seed, the shots and the labels alone, so two models see the same ones and their
difference is paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fewsight.seeding import numpy_generator

WAYS, QUERIES, EPISODES = 5, 10, 600


@dataclass(frozen=True)
class Figure:
    """Mean of 600 accuracies in percent, and half of its 95 % interval."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Tensor) -> Figure:
        """Of one value for each episode."""
        return cls(100 * float(values.mean()), 196 * float(values.std()) / len(values) ** 0.5)

    def __str__(self) -> str:
        return f"{self.mean:.1f} ±{self.half:.1f}"


def square(image: Image.Image, size: int) -> numpy.ndarray:
    """The shorter side to `size` (bicubic), the centre cut out: uint8 `[size, size, 3]`."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return numpy.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box))


def pixels(images: Sequence[Image.Image], size: int) -> Tensor:
    """Images in -1..1, `[N, 3, size, size]`."""
    stacked = torch.from_numpy(numpy.stack([square(image, size) for image in images]))
    return stacked.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


@torch.inference_mode()
def vectors(images: Tensor, encode: Callable[[Tensor], Tensor], batch: int = 32) -> Tensor:
    """`encode` applied in batches, `[N, D]`."""
    return torch.cat(
        [encode(part.contiguous(memory_format=torch.channels_last)).float() for part in images.split(batch)]
    )


def accuracies(
    features: Tensor, labels: Sequence[str], *, shots: int, seed: int = 0, centre: bool = False
) -> Tensor:
    """Accuracy of each episode in [0, 1], `[600]`; `centre` takes the mean of the supports from all vectors."""
    unit = F.normalize(features, dim=1)
    by_class = [numpy.flatnonzero(numpy.array(labels) == name) for name in sorted(set(labels))]
    rows = torch.from_numpy(numpy.stack([_draw(by_class, shots, seed, e) for e in range(EPISODES)]))
    episodes = unit[rows]  # [E, K, shots + queries, D]
    supports, queries = episodes[:, :, :shots], episodes[:, :, shots:].flatten(1, 2)
    if centre:
        middle = supports.mean((1, 2), keepdim=True)  # [E, 1, 1, D]
        supports, queries = supports - middle, queries - middle[:, 0]
    prototypes = F.normalize(supports.mean(2), dim=-1)
    found = (F.normalize(queries, dim=-1) @ prototypes.transpose(1, 2)).argmax(-1)  # [E, K queries]
    truth = torch.arange(WAYS).repeat_interleave(QUERIES)
    return (found == truth).float().mean(1)


def _draw(by_class: list[numpy.ndarray], shots: int, seed: int, episode: int) -> numpy.ndarray:
    rng = numpy_generator(seed, f"judge {shots}-shot", episode)
    chosen = rng.choice(len(by_class), WAYS, replace=False)
    return numpy.stack([rng.choice(by_class[c], shots + QUERIES, replace=False) for c in chosen])
