"""What the training loop itself costs: share of a step's CPU time outside forward, backward and making the batch.

    python benchmarks/loop_overhead.py [--steps 20] [--batch 8] [--out FILE]

A ViT-Tiny at 224 pixels with a linear head; AdamW, clipping, an average of the weights, a line of metrics every 10
steps and a checkpoint at the end. Batches lie ready, so that nothing is spent on data. Bar: 5 %.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from fewsight.backbones.architectures import untrained_backbone
from fewsight.objectives.objective import Batch, Objective, Terms
from fewsight.progress import quieted
from fewsight.training.loop import train
from fewsight.training.settings import TrainingSettings

BAR = 0.05


class Classify(Objective):
    """A backbone and a linear layer; counts the CPU time of its forward and backward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = untrained_backbone("vit_tiny_patch16_224", seed=0)
        self.head = nn.Linear(self.encoder.dim, 10)
        self.seconds = 0.0

    def backbone(self) -> nn.Module:
        """The network."""
        return self.encoder

    def forward(self, batch: Batch) -> Terms:
        """Cross-entropy."""
        scores = self.head(self.encoder(batch.images[0]))
        return Terms({"loss": nn.functional.cross_entropy(scores, batch.labels)})

    def backward(self, batch: Batch, scale: float = 1.0) -> Terms:
        """As ever, with a clock."""
        started = time.process_time()
        terms = super().backward(batch, scale)
        self.seconds += time.process_time() - started
        return terms


def main() -> None:
    """Measure and print one row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = Batch(
        images=(torch.randn(arguments.batch, 3, 224, 224),), labels=torch.arange(arguments.batch) % 10
    )
    objective = Classify()
    marks: list[tuple[float, float]] = []

    def mark(trained: Objective, step: int) -> None:
        marks.append((time.process_time(), objective.seconds))

    settings = TrainingSettings(steps=arguments.steps + 2, clip=1.0, ema=0.999, weight_decay=0.05, prefetch=0)
    with tempfile.TemporaryDirectory() as folder, quieted():
        train(objective, lambda number: batch, settings, Path(folder), on_step=mark)
        ended = time.process_time()
    first, last = marks[1], marks[-1]  # two steps to warm up
    total, computed = ended - first[0], last[1] - first[1]
    share = 1 - computed / total
    text = (
        "| | step | forward and backward | the loop's own share |\n|---|---|---|---|\n"
        f"| ViT-Tiny, batch {arguments.batch} | {1e3 * total / arguments.steps:.0f} ms | "
        f"{1e3 * computed / arguments.steps:.0f} ms | {100 * share:.1f} % |\n"
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    assert share < BAR, f"{100 * share:.1f} %; the bar is {100 * BAR:.0f} %"


if __name__ == "__main__":
    main()
