"""The teacher: a moving average of the student, `teacher <- m teacher + (1 - m) student` over parameters.

Grill et al. (BYOL, 2020), section 3.1; Caron et al. (DINO, 2021), section 3.1. It starts as a copy, has no
gradient, no drop path and no dropout. Buffers are not averaged: a teacher with batch norm takes the moments of its
own batches.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fewsight.errors import InvalidInput
from fewsight.objectives.ranges import check_within

__all__ = ["MomentumTeacher", "set_drop_path"]


class MomentumTeacher(nn.Module):
    """A copy of `student` that only `move` changes.

    Attributes:
        network: the copy.
        moves: how often it was moved.
    """

    network: Any
    moves: Tensor

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.network = _without_noise(copy.deepcopy(student)).requires_grad_(False)
        self.register_buffer("moves", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def move(self, student: nn.Module, momentum: float) -> None:
        """One step of the average; call it once per optimiser step, after it."""
        check_within(0, 1, momentum=momentum)
        own = dict(self.network.named_parameters())
        pairs = [(own[name], value) for name, value in student.named_parameters() if name in own]
        if not pairs:
            raise InvalidInput("student has no parameter that the teacher knows; expected the same network.")
        mine, theirs = ([pair[side].detach() for pair in pairs] for side in (0, 1))
        torch._foreach_lerp_(mine, theirs, 1 - momentum)
        self.moves += 1

    @torch.no_grad()
    def forward(self, *arguments: Any, **settings: Any) -> Any:
        """The network's output, without gradient."""
        return self.network(*arguments, **settings)


def set_drop_path(backbone: nn.Module, rate: float) -> None:
    """Stochastic depth that grows linearly from 0 at the first block to `rate` at the last.

    Networks without transformer blocks of timm stay as they are.

    Source: Huang et al. (ECCV 2016); DINO and its followers train with 0.1.
    """
    check_within(0, 1, drop_path=rate)
    from timm.layers import DropPath

    blocks = list(getattr(getattr(backbone, "model", None), "blocks", ()))
    for index, block in enumerate(blocks):
        share = rate * index / max(1, len(blocks) - 1)
        for name in ("drop_path1", "drop_path2"):
            if hasattr(block, name):
                setattr(block, name, DropPath(share) if share else nn.Identity())


def _without_noise(network: nn.Module) -> nn.Module:
    for module in network.modules():
        for rate in ("drop_prob", "p"):  # timm's drop path, torch's dropout
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)
    return network
