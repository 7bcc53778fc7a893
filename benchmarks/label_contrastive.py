"""Label-aware contrastive loss, value and gradient: time and peak memory beside the authors' dense form.

    python benchmarks/label_contrastive.py [--images 1024] [--classes 100] [--repetitions 9] [--out FILE]

Two views, 128 wide. The dense form is written here from its description: the mask of images is tiled to views x views,
similarities, mask, exponentials and log-probabilities are square matrices, positives are picked by multiplication. Each
row is checked for equal values and gradients first. The limit is six products of the similarities at 190 GFLOP/s.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.objectives.label_contrastive import label_contrastive_loss
from measure import compare, table

TEMPERATURE, WIDTH = 0.1, 128


def dense(features: Tensor, labels: Tensor) -> Tensor:
    """Every anchor against every vector in square matrices, views one after the other."""
    V = features.shape[1]
    vectors = torch.cat(features.unbind(1))
    positive = (labels[:, None] == labels[None, :]).float().repeat(V, V)
    others = torch.ones_like(positive).fill_diagonal_(0)
    positive = positive * others
    logits = vectors @ vectors.T / TEMPERATURE
    logits = logits - logits.max(1, keepdim=True).values.detach()
    log_probabilities = logits - (logits.exp() * others).sum(1, keepdim=True).log()
    return -((positive * log_probabilities).sum(1) / positive.sum(1)).mean()


def main() -> None:
    """Compare and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    features = F.normalize(torch.randn(arguments.images, 2, WIDTH), dim=2).requires_grad_()
    labels = torch.randint(arguments.classes, (arguments.images,))

    def with_gradient(loss: Callable[[], Tensor]) -> Callable[[], tuple[Tensor, Tensor]]:
        def call() -> tuple[Tensor, Tensor]:
            value = loss()
            return value.detach(), torch.autograd.grad(value, features)[0]

        return call

    ours = {"temperature": TEMPERATURE}
    calls = {
        "dense square matrices": with_gradient(lambda: dense(features, labels)),
        "fewsight": with_gradient(lambda: label_contrastive_loss(features, labels, **ours)),
        "fewsight, gradient in bfloat16": with_gradient(
            lambda: label_contrastive_loss(features, labels, **ours, gradient_dtype=torch.bfloat16)
        ),
        "fewsight, variant in": with_gradient(
            lambda: label_contrastive_loss(features, labels, **ours, variant="in")
        ),
    }
    value, gradient = calls["dense square matrices"]()
    for name, tolerance in (("fewsight", 1e-5), ("fewsight, gradient in bfloat16", 1e-2)):
        ours_value, ours_gradient = calls[name]()
        assert abs(float(ours_value - value)) < 1e-5 * float(value)
        assert float((ours_gradient - gradient).norm() / gradient.norm()) < tolerance
    limit = 6 * 2 * (2 * arguments.images) ** 2 * WIDTH / 2 / 190e6
    text = table(compare(calls, arguments.repetitions), next(iter(calls)), limit_ms=limit)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
