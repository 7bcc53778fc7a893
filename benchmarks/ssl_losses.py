"""Self-supervised losses beside lightly: time and peak memory of value and gradient, in one process.

    python benchmarks/ssl_losses.py [nt_xent sinkhorn dino msn msn_sinkhorn] [--repetitions 7] [--out FILE]

Needs the extra `bench`. Logits are in the range of real ones (cosines): normal noise at temperature 0.04 makes
denormal probabilities, which slow every form down. Every row is checked for equal values and gradients first.
What a call returns, value and gradients, is part of its peak; the last column leaves it out. The limits are
products at 190 GFLOP/s and passes at 29 GB/s.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss, MSNLoss, NTXentLoss
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn
from torch import Tensor

from fewsight.objectives.assignments import sinkhorn
from fewsight.objectives.dino import dino_loss
from fewsight.objectives.msn import msn_loss
from fewsight.objectives.simclr import nt_xent
from measure import compare, table

Calls = dict[str, Callable[[], tuple[Tensor, ...]]]


def with_gradients(loss: Callable[..., Tensor], *leaves: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Value and gradients by the leaves."""

    def call() -> tuple[Tensor, ...]:
        value = loss(*leaves)
        return (value.detach(), *torch.autograd.grad(value, leaves))

    return call


def nt_xent_calls() -> tuple[Calls, float]:
    z1, z2 = (torch.randn(1024, 128).requires_grad_(True) for _ in range(2))
    peer = NTXentLoss(temperature=0.2)
    return {
        "lightly NTXentLoss": with_gradients(peer, z1, z2),
        "fewsight nt_xent": with_gradients(lambda a, b: nt_xent(a, b, 0.2), z1, z2),
    }, 17.0


def sinkhorn_calls() -> tuple[Calls, float]:
    scores = torch.rand(1024, 4096) * 2 - 1
    return {
        "lightly sinkhorn": lambda: (lightly_sinkhorn(scores, iterations=3, epsilon=0.05),),
        "fewsight sinkhorn": lambda: (sinkhorn(scores, 0.05, 3),),
    }, 5.8


def dino_calls() -> tuple[Calls, float]:
    V, G, B, K = 10, 2, 16, 65536
    student, teacher = (torch.rand(V, B, K) * 2 - 1).requires_grad_(True), torch.rand(G, B, K) * 2 - 1
    center = torch.zeros(K)

    def lightly(logits: Tensor) -> Tensor:
        # The peer changes its centre in each call, so each call has a fresh one.
        peer = DINOLoss(
            output_dim=K, warmup_teacher_temp=0.04, teacher_temp=0.04, warmup_teacher_temp_epochs=1
        )
        return peer(list(teacher), list(logits.unbind()), epoch=0)

    memory = torch.empty(V, B, K)

    def given_away() -> tuple[Tensor, ...]:
        # As in training: logits that a layer has computed. They are made anew each time, which counts as time alone.
        leaf = memory.copy_(student.detach()).detach().requires_grad_(True)
        return with_gradients(
            lambda x: dino_loss(x.view(V, B, K), teacher, center, 0.1, 0.04, overwrite=True), leaf
        )()

    return {
        "lightly DINOLoss": with_gradients(lightly, student),
        "fewsight dino_loss": with_gradients(lambda x: dino_loss(x, teacher, center, 0.1, 0.04), student),
        "fewsight dino_loss, overwrite": given_away,
    }, 10.0


def msn_calls(balance: bool) -> tuple[Calls, float]:
    anchors, targets = F.normalize(torch.randn(2048, 256), dim=1), F.normalize(torch.randn(2048, 256), dim=1)
    prototypes = F.normalize(torch.randn(4096, 256), dim=1).requires_grad_(True)
    anchors.requires_grad_(True)
    # The peer takes a value, not a switch: its form without Sinkhorn is that of 0 iterations.
    peer = MSNLoss(temperature=0.1, sinkhorn_iterations=3 if balance else 0, regularization_weight=1.0)

    def ours(a: Tensor, c: Tensor) -> Tensor:
        losses = msn_loss(a, targets, c, 0.1, 0.25, balance, 3, 1.0, 0.0)
        return losses.cross_entropy + losses.me_max

    def theirs(a: Tensor, c: Tensor) -> Tensor:
        # The peer expects unit rows and leaves the normalisation, and its gradient, to the caller.
        return peer(F.normalize(a, dim=1), targets, F.normalize(c, dim=1))

    return {
        "lightly MSNLoss": with_gradients(theirs, anchors, prototypes),
        "fewsight msn_loss": with_gradients(ours, anchors, prototypes),
    }, 98.0 if balance else 90.0


CASES: dict[str, Callable[[], tuple[Calls, float]]] = {
    "nt_xent": nt_xent_calls,
    "sinkhorn": sinkhorn_calls,
    "dino": dino_calls,
    "msn": lambda: msn_calls(balance=False),
    "msn_sinkhorn": lambda: msn_calls(balance=True),
}


def largest_difference(calls: Calls) -> float:
    """Norm of the difference over the norm, the largest of value and gradients."""
    theirs, *ours = (call() for call in calls.values())
    return max(float((a - b).norm() / b.norm()) for own in ours for a, b in zip(own, theirs, strict=True))


def main() -> None:
    """Print one table for each loss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--out", type=Path, default=None, help="also write the tables to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = []
    for name in options.cases:
        torch.manual_seed(0)
        calls, limit = CASES[name]()
        difference = largest_difference(calls)
        costs = compare(calls, options.repetitions)
        result_mib = sum(part.nbytes for part in next(iter(calls.values()))()) / 2**20
        rows = table(costs, next(iter(calls)), result_mib=result_mib, limit_ms=limit)
        parts.append(f"{name}: relative difference {difference:.1e}, result {result_mib:.1f} MiB\n\n{rows}\n")
        print(parts[-1], flush=True)
    if options.out is not None:
        options.out.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
