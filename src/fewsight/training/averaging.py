"""An exponential moving average of weights, kept beside the model that is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Average of a module's parameters: `average <- decay * average + (1 - decay) * weights`.

    The decay grows with the steps, `min(decay, (1 + step) / (10 + step))`, so that a short run is not held at its
    start. Buffers are copied, not averaged.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in module.state_dict().items()
        }

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take the weights after optimiser step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged = {name for name, _ in module.named_parameters()}
        for name, value in module.state_dict().items():
            if name in averaged:
                self.tensors[name].lerp_(value.to(self.tensors[name].dtype), 1 - decay)
            else:
                self.tensors[name].copy_(value)
