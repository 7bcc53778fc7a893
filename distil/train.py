"""The three stages of training, each resumable: A blocks only, B with the last convolutions, C all weights."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from losses import Heads, distillation_loss
from quick import quicken
from targets import DENSE_DIMS, GRID, POOLED_DIMS, Basis, enlarged, normalised
from teacher import load_trunk
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fewsight.backbones.backbone import TokenMask
from fewsight.backbones.bundled import BundledBackbone
from fewsight.backbones.features import Features
from fewsight.seeding import numpy_generator, torch_generator

SMALLEST_SIZE = 0.02  # of a tensor, where rates are relative to it
SETTLING = 3  # stages that may stand still in the end, to stride 8
CLIP, EMA, DECAY = 1.0, 0.998, 0.05
LOG_EVERY, KEEP_EVERY = 25, 50
FITTED_ON = 16_000  # rows of the first block for the principal components of pooled features


MIXED = (128, 128, 128, 192)


@dataclass(frozen=True)
class Stage:
    """One stage: what enters, which weights learn, how long and how fast."""

    name: str
    inputs: str  # late: stored maps of the whole trunk; early: before its last two stages; views: pixels
    steps: int
    rate: float
    trunk_factor: float = 0.0  # of the rate, for the trunk
    learning_from: int = 7  # first trunk stage that learns; 7: none; -1: all with the stem
    kept: int = GRID * GRID  # patches that the blocks see, but for the last fifth of the steps
    sizes: tuple[int, ...] = (128,)  # input sides, drawn anew for each step
    decays: bool = True  # the rate, to 1 % by a cosine
    relative: bool = (
        False  # trunk_factor times the size of a tensor's own weights: folded batch norms make some large
    )
    settled: int | None = (
        None  # step after which stem and first stages stand still: their backward pass is dearest
    )
    warm_up: int = 100  # steps
    batch: int = 64

    def shortened(self, share: float) -> Stage:
        """The same stage with a share of its steps, its warm-up and all."""
        settled = None if self.settled is None else round(share * self.settled)
        steps, warm_up = (max(1, round(share * count)) for count in (self.steps, self.warm_up))
        return replace(self, steps=steps, warm_up=warm_up, settled=settled)


STAGES = {
    "a": Stage("a", "late", 1200, 1e-3, kept=20),
    "b": Stage("b", "early", 500, 5e-4, 0.2, 5),
    "c": Stage("c", "views", 200, 3e-4, 0.25, -1, sizes=MIXED, decays=False),
    "d": Stage("d", "views", 300, 3e-4, 2.0, -1, sizes=MIXED, settled=120, relative=True),
}


class Targets:
    """Stored arrays of some blocks of views, read row by row."""

    def __init__(self, folder: Path, blocks: list[int], rows: list[int] | None = None) -> None:
        names = ("views", "early", "late", "pooled", "dense")
        limits = rows or [None] * len(blocks)
        self.parts = {
            name: [
                numpy.load(folder / f"{name}_{b}.npy", mmap_mode="r")[:limit]
                for b, limit in zip(blocks, limits, strict=True)
            ]
            for name in names
        }
        self.ends = numpy.cumsum([len(part) for part in self.parts["pooled"]])
        self.basis = self._pooled_basis(folder / "pooled_basis.pt")

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _pooled_basis(self, path: Path) -> Basis:
        """Fitted once: other rows would turn the axes, which the readouts of an earlier stage have learned."""
        if not path.exists():
            fitted = torch.from_numpy(numpy.array(self.parts["pooled"][0][:FITTED_ON])).float()
            torch.save(vars(Basis.fit(fitted, POOLED_DIMS)), path)
        return Basis(**torch.load(path))

    def read(self, name: str, index: numpy.ndarray) -> numpy.ndarray:
        """Rows of one array."""
        block = numpy.searchsorted(self.ends, index, side="right")
        start = numpy.concatenate([[0], self.ends[:-1]])
        return numpy.stack([self.parts[name][b][i - start[b]] for b, i in zip(block, index, strict=True)])


class Run:
    """Student, readouts, moving average and optimiser of one stage."""

    def __init__(self, stage: Stage, seed: int) -> None:
        torch.manual_seed(torch_generator(seed, "student").initial_seed())
        self.stage, self.seed, self.step = stage, seed, 0
        self.student = BundledBackbone().to(memory_format=torch.channels_last)
        quicken(self.student.trunk)
        self.heads = Heads(self.student.dim, POOLED_DIMS, DENSE_DIMS)
        self.average: dict[str, Tensor] = {}

    def start(self) -> None:
        """Choose what learns, make the optimiser, start the average at the weights as they are."""
        trunk = self.student.trunk
        trunk.requires_grad_(self.stage.learning_from < 0)
        trunk.stages[max(self.stage.learning_from, 0) :].requires_grad_(True)
        self.optimiser = torch.optim.AdamW(_groups(self.student, self.heads, self.stage), betas=(0.9, 0.98))
        self.average = {name: value.detach().clone() for name, value in self.student.state_dict().items()}

    def update(self, loss: Tensor) -> None:
        """One optimiser step at the scheduled rate, and the moving average."""
        if self.step == self.stage.settled:
            self.settle()
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * _schedule(self.step, self.stage)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, CLIP)
        self.optimiser.step()
        self.step += 1
        share = 1 - min(EMA, (1 + self.step) / (10 + self.step))
        state = self.student.state_dict()
        torch._foreach_lerp_(list(self.average.values()), [state[name] for name in self.average], share)

    def settle(self) -> None:
        """Let the stem and the first stages stand still from now on."""
        self.student.trunk.stem.requires_grad_(False)
        self.student.trunk.stages[:SETTLING].requires_grad_(False)

    def save(self, path: Path) -> None:
        """Everything needed to go on, written whole or not at all."""
        state = {
            "student": self.student.state_dict(),
            "average": self.average,
            "heads": self.heads.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "stage": vars(self.stage) | {"sizes": list(self.stage.sizes)},
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def resume(self, path: Path) -> None:
        """Go on where `save` left."""
        state = torch.load(path)
        self.student.load_state_dict(state["student"])
        self.heads.load_state_dict(state["heads"])
        self.start()
        self.average, self.step = state["average"], state["step"]
        self.optimiser.load_state_dict(state["optimiser"])
        if self.stage.settled is not None and self.step > self.stage.settled:
            self.settle()

    def start_from(self, path: Path) -> None:
        """Begin with the moving average of an earlier stage."""
        state = torch.load(path)
        self.student.load_state_dict(state["average"])
        self.heads.load_state_dict(state["heads"])


def _groups(student: nn.Module, heads: nn.Module, stage: Stage) -> list[dict[str, object]]:
    groups: dict[tuple[float, float], list[Tensor]] = {}
    named = [*student.named_parameters(), *(("heads." + name, p) for name, p in heads.named_parameters())]
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim == 1 or name in ("cls_token", "mask_token", "pos_embed")
        factor, decay = 1.0, 0.0 if plain else DECAY
        if name.startswith("trunk."):
            factor = stage.trunk_factor
            if stage.relative:
                factor, decay = factor * max(_size(parameter), SMALLEST_SIZE), 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": parameters, "peak": stage.rate * factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]


def _size(parameter: Tensor) -> float:
    """Root of the mean square."""
    return float(parameter.detach().square().mean().sqrt())


def _schedule(step: int, stage: Stage) -> float:
    """Linear warm-up, then a cosine down to 1 %."""
    if step < stage.warm_up:
        return (step + 1) / stage.warm_up
    if not stage.decays:
        return 1.0
    done = (step - stage.warm_up) / max(1, stage.steps - stage.warm_up)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def batch_features(run: Run, targets: Targets, index: numpy.ndarray) -> tuple[Features, Tensor]:
    """The student's features of one batch, and the dense targets of the patches it saw."""
    stage, student = run.stage, run.student
    dense = torch.from_numpy(targets.read("dense", index)).float()
    stored = targets.read(stage.inputs, index)
    if stage.inputs != "views":
        maps = torch.from_numpy(stored).float().contiguous(memory_format=torch.channels_last)
        maps = student.trunk.beyond(maps, 5) if stage.inputs == "early" else maps
    else:
        rng = numpy_generator(run.seed, f"input {stage.name}", run.step)
        images, side = normalised(stored), int(rng.choice(stage.sizes))
        if side != images.shape[-1]:
            images = enlarged(images, side)
        if rng.random() < 0.5:
            images, dense = images.flip(3), dense.flip(2)
        maps = student.trunk(images.contiguous(memory_format=torch.channels_last))
    h, w = maps.shape[2:]
    if (h, w) != (GRID, GRID):
        dense = F.interpolate(dense.permute(0, 3, 1, 2), size=(h, w), mode="bilinear").permute(0, 2, 3, 1)
    mask = None
    if stage.kept < h * w and run.step < 0.8 * stage.steps:
        generator = torch_generator(run.seed, f"kept {stage.name}", run.step)
        order = torch.rand(len(index), h * w, generator=generator).argsort(1)
        hidden = (order >= stage.kept).reshape(-1, h, w)
        mask = TokenMask(hidden, "drop")
        dense = dense[~hidden].reshape(len(index), 1, stage.kept, -1)
    # The fused kernel's backward pass is slower than plain products for so few tokens.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        return student.encode(maps, mask=mask), dense


def train(
    stage: Stage,
    targets: Targets,
    target: Path,
    *,
    seed: int,
    before: Path | None,
    teacher: dict[str, Tensor] | None = None,
    watch: Callable[[Run], None] | None = None,
) -> Run:
    """Run one stage to its end and write it to `target`; goes on from a file that is there."""
    run = Run(stage, seed)
    if target.exists():
        run.resume(target)
    else:
        if before is not None:
            run.start_from(before)
        elif teacher is not None:
            load_trunk(run.student.trunk, teacher)
        run.start()
    per_epoch, began, first = len(targets) // stage.batch, time.time(), run.step
    sums: dict[str, float] = {}
    while run.step < stage.steps:
        epoch, place = divmod(run.step, per_epoch)
        if place == 0 or run.step == first:
            order = numpy_generator(seed, f"order {stage.name}", epoch).permutation(len(targets))
        index = order[place * stage.batch : (place + 1) * stage.batch]
        features, dense = batch_features(run, targets, index)
        pooled = F.normalize(torch.from_numpy(targets.read("pooled", index)).float(), dim=1)
        terms = distillation_loss(run.heads, features, pooled, targets.basis.project(pooled), dense)
        run.update(terms["loss"])
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value.item() / LOG_EVERY
        if run.step % LOG_EVERY == 0:
            rate = (run.step - first) * stage.batch / (time.time() - began)
            line = {name: round(value, 4) for name, value in sums.items()}
            print(
                json.dumps({"stage": stage.name, "step": run.step, **line, "img/s": round(rate, 1)}),
                flush=True,
            )
            sums = {}
        if run.step % KEEP_EVERY == 0 or run.step == stage.steps:
            run.save(target)
            if watch is not None:
                watch(run)
    return run
