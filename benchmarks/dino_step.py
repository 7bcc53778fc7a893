"""A whole DINO training step: how much of it lies outside the backbone.

    python benchmarks/dino_step.py [--batch 4] [--prototypes 65536] [--repetitions 3]

ViT-S/16, 2 views of 224 px and 8 of 96 px, teacher, head, loss, clipping, AdamW, moving average, centre. The rival is
the backbone alone on the same views: the student's forward and backward pass, the teacher's forward pass. CPU time of
one thread, in turn in one process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from fewsight.backbones.architectures import untrained_backbone
from fewsight.objectives.crops import vectors
from fewsight.objectives.dino import Dino, DinoSettings
from fewsight.objectives.objective import Batch, Progress


def step_of(objective: Dino, batch: Batch) -> Callable[[], None]:
    """One whole optimiser step."""
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, 1e-4)

    def step() -> None:
        objective.before_step(Progress(500, 1000))
        optimiser.zero_grad(set_to_none=True)
        objective.backward(batch)
        torch.nn.utils.clip_grad_norm_(parameters, 3.0)
        optimiser.step()
        objective.after_step(Progress(501, 1000))

    return step


def backbone_of(objective: Dino, batch: Batch) -> Callable[[], None]:
    """What the backbones of student and teacher take of it."""
    student, teacher = objective.student.backbone, objective.teacher.network.backbone

    def run() -> None:
        student.zero_grad(set_to_none=True)
        with torch.no_grad():
            vectors(teacher, batch.images[:2])
        features = vectors(student, batch.images)
        features.backward(torch.ones_like(features))

    return run


def cpu_seconds(call: Callable[[], None]) -> float:
    """CPU time of one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def main() -> None:
    """Print both times and the share outside the backbone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--prototypes", type=int, default=65536)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    objective = Dino(
        untrained_backbone("vit_small_patch16_224"), DinoSettings(prototypes=options.prototypes)
    ).train()
    images = tuple(
        torch.randn(options.batch, 3, view.size, view.size)
        for view in objective.views
        for _ in range(view.count)
    )
    batch = Batch(images=images)
    calls = {"whole step": step_of(objective, batch), "backbone alone": backbone_of(objective, batch)}
    for call in calls.values():
        call()
    times = {name: [] for name in calls}
    for _ in range(options.repetitions):
        for name, call in calls.items():
            times[name].append(cpu_seconds(call))
    whole, alone = (median(times[name]) for name in calls)
    print(f"| whole step | {whole:.2f} s |\n| backbone alone | {alone:.2f} s |")
    print(f"| outside the backbone | {100 * (1 - alone / whole):.1f} % |")


if __name__ == "__main__":
    main()
