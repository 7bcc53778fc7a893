"""Losses and softmaxes stay in float32 under autocast, forward and backward."""

from __future__ import annotations

import contextlib

import pytest
import torch

from fewsight.objectives.assignments import assign, koleo, me_max, update_center
from fewsight.objectives.dino import dino_loss
from fewsight.objectives.moco_v3 import moco_v3_loss
from fewsight.objectives.msn import msn_loss
from fewsight.objectives.simclr import nt_xent
from fewsight.objectives.swav import swav_loss


def msn(anchors, targets):
    losses = msn_loss(anchors, targets, targets, 0.1, 0.25, True, 3, 1.0, 1.0)
    return losses.cross_entropy + losses.me_max + losses.entropy


FUNCTIONS = {
    "nt_xent": lambda a, b: nt_xent(a, b, 0.2),
    "moco_v3": lambda a, b: moco_v3_loss(a, a, b, b, 0.2),
    "msn": msn,
    "dino": lambda a, b: dino_loss(a.view(2, 8, 24), b.view(2, 8, 24), torch.zeros(24), 0.1, 0.04),
    "dino_sinkhorn": lambda a, b: dino_loss(
        a.view(2, 8, 24), b.view(2, 8, 24), None, 0.1, 0.04, method="sinkhorn"
    ),
    "swav": lambda a, b: swav_loss(a.view(2, 8, 24), 0.1, 0.05, 3, 2),
    "koleo": lambda a, b: koleo(a),
    "me_max": lambda a, b: me_max(a.softmax(dim=1)),
    "sinkhorn": lambda a, b: (a * 0).sum() + assign(b, "sinkhorn", 0.1).square().sum(),
    "update_center": lambda a, b: (a * 0).sum() + update_center(torch.zeros(24), b, 0.9).square().sum(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(name, dtype):
    generator = torch.Generator().manual_seed(0)
    results = []
    for context in (contextlib.nullcontext(), torch.autocast("cpu", dtype=dtype)):
        a, b = (torch.randn(16, 24, generator=generator.manual_seed(seed)) for seed in (0, 1))
        a.requires_grad_(True)
        with context:
            loss = FUNCTIONS[name](a, b)
            loss.backward()
        results.append((loss.detach(), a.grad))
    assert results[1][0].dtype == torch.float32
    # The same kernels on the same numbers.
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-7)
