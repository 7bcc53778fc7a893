"""An exponential moving average of weights, kept beside the model that is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from fewsight.training.sharding import is_sharded, like

__all__ = ["WeightAverage"]


class WeightAverage:
    """Average of a module's trained parameters: `average <- decay * average + (1 - decay) * weights`.

    The decay grows with the steps, `min(decay, (1 + step) / (10 + step))`, so that a short run is not held at its
    start. Frozen parameters and buffers are not averaged and not kept twice.

    Attributes:
        tensors: name -> average, of every parameter with gradient.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in module.named_parameters() if value.requires_grad
        }

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take the weights after optimiser step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        held = dict(module.named_parameters())
        averages = list(self.tensors.values())
        weights = [held[name].detach() for name in self.tensors]
        if any(is_sharded(tensor) for tensor in averages):
            for average, weight in zip(averages, weights, strict=True):
                average.lerp_(weight, 1 - decay)
        else:
            torch._foreach_lerp_(averages, weights, 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Put the average in the place of the weights."""
        held = dict(module.named_parameters())
        for name, average in self.tensors.items():
            held[name].copy_(average)

    @contextlib.contextmanager
    def in_place(self, module: nn.Module) -> Iterator[None]:
        """Within the block the module has the average; after it its own weights again, bit by bit."""
        held = dict(module.named_parameters())
        own = {name: held[name].detach().clone() for name in self.tensors}
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in own.items():
                    held[name].copy_(value)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the averages of a checkpoint."""
        self.tensors = {name: like(state[name], value).clone() for name, value in self.tensors.items()}
