"""A tiny network and tiny data on which clustering without any means against collapse collapses."""

from __future__ import annotations

from typing import Any

import torch

from fewsight.backbones.architectures import untrained_backbone
from fewsight.objectives.dino import Dino, DinoSettings
from fewsight.objectives.objective import Batch, Objective, Progress
from fewsight.seeding import torch_generator
from fewsight.training.watch import CollapseWatch, WatchSettings

PHOTOS, SIDE = 64, 16


def photos(seed: int) -> torch.Tensor:
    """Eight kinds of coarse patterns, with variations."""
    generator = torch_generator(seed, "patterns")
    kinds = torch.randn(8, 3, 4, 4, generator=generator)
    own = torch.randn(PHOTOS, 3, 4, 4, generator=generator)
    coarse = kinds[torch.arange(PHOTOS) % 8] + 0.5 * own
    return torch.nn.functional.interpolate(coarse, SIDE, mode="bilinear")


def views(pictures: torch.Tensor, seed: int, step: int, count: int = 2) -> tuple[torch.Tensor, ...]:
    """Shifted, brightened, noisy copies."""
    made = []
    for view in range(count):
        generator = torch_generator(seed, "view", step, view)
        shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
        factor = 1 + 0.2 * torch.randn(len(pictures), 3, 1, 1, generator=generator)
        noise = 0.2 * torch.randn(pictures.shape, generator=generator)
        made.append(torch.roll(pictures, shift, (2, 3)) * factor + noise)
    return tuple(made)


def objective(collapse: str, seed: int, **settings: Any) -> Objective:
    backbone = untrained_backbone(
        "vit_tiny_patch16_224", image_size=SIDE, seed=seed, depth=2, embed_dim=32, num_heads=2, patch_size=4
    )
    chosen: dict[str, Any] = {
        "prototypes": 32,
        "hidden": 32,
        "bottleneck": 16,
        "local_views": 0,
        "drop_path": 0.0,
        "frozen_prototypes": 0.0,
        "temperature_warmup": 0.0,
        "teacher_temperature": 0.04,
        # ME-MAX reaches the targets only through the average, which must then follow within the run.
        "momentum": 0.9 if collapse == "memax" else 0.99,
        "memax_weight": 5.0 if collapse == "memax" else 1.0,
    }
    torch.manual_seed(seed)
    return Dino(backbone, DinoSettings(collapse=collapse, **(chosen | settings)))


def run(method: str, seed: int, steps: int = 100, rate: float = 5e-4, **settings: Any) -> CollapseWatch:
    """Train with a watch that is asked every 5 steps."""
    trained, pictures = objective(method, seed, **settings).train(), photos(seed)
    watch = CollapseWatch(steps, WatchSettings(every=5))
    optimiser = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], rate)
    for step in range(steps):
        trained.before_step(Progress(step, steps))
        optimiser.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 20)
        optimiser.zero_grad(set_to_none=True)
        trained.backward(Batch(images=views(pictures, seed, step), step=step, seed=seed))
        optimiser.step()
        trained.after_step(Progress(step + 1, steps))
        watch(trained, step + 1)
    return watch
