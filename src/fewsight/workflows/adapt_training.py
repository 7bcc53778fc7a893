"""Stage 1 of `adapt` and its comparators: a backbone and labelled photos in, an adapted backbone out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewsight import distributed
from fewsight.backbones.backbone import Backbone
from fewsight.backbones.lora import merge_lora
from fewsight.backbones.tuning import select_tuning
from fewsight.data.pipelines import Augmentation, for_kind
from fewsight.data.store import PixelStore
from fewsight.errors import CollapsedRun, InvalidInput
from fewsight.evaluation.intervals import Interval, proportion_interval
from fewsight.heads.head import membership_from_labels
from fewsight.heads.logistic import Logistic
from fewsight.objectives.classification import Classification
from fewsight.objectives.label_contrastive import LabelContrastive
from fewsight.objectives.objective import Objective
from fewsight.objectives.prototype_tuning import PrototypeTuning
from fewsight.progress import say
from fewsight.protocols.verdict import right_answers
from fewsight.seeding import stream_seed
from fewsight.training.balanced_source import Balanced, BatchRows, LabelledViews, Shuffled, plain_view
from fewsight.training.best import BestWeights
from fewsight.training.loop import TrainingResult, train
from fewsight.training.settings import TrainingSettings
from fewsight.workflows.adapt_recipe import AdaptRecipe
from fewsight.workflows.projectors import Projectors

__all__ = ["AdaptTask", "Adapted", "adapt_backbone", "encode_rows", "training_settings"]

ENCODED_AT_ONCE = 32
COLLAPSED_STEPS = 10  # steps in a row with equal features after which a run is stopped


@dataclass(frozen=True)
class AdaptTask:
    """Labelled photos and what each is for; rows are those of the store.

    Attributes:
        store: pixels.
        labels: class of each row, int64 [N].
        train: rows that are trained on.
        stop: rows that choose the step to keep; may be empty.
        judged: rows of the verdict; may be empty.
    """

    store: PixelStore
    labels: NDArray[numpy.int64]
    train: NDArray[numpy.int64]
    stop: NDArray[numpy.int64]
    judged: NDArray[numpy.int64]

    def targets(self, rows: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
        """Classes of rows as columns 0 .. K - 1 of the training classes."""
        return numpy.searchsorted(numpy.unique(self.labels[self.train]), self.labels[rows])


@dataclass(frozen=True)
class Adapted:
    """What came of training.

    Attributes:
        backbone: adapted, in evaluation mode, without additions.
        objective: with the trained head, where there is one.
        result: of the loop; None where nothing was trained.
        step: whose weights were kept.
        stopping: accuracy of these on the photos that chose them; None where nothing chose.
        projectors: of a contrastive method, for a look at the space that was contrasted.
    """

    backbone: Backbone
    objective: Objective | None
    result: TrainingResult | None
    step: int
    stopping: Interval | None = None
    projectors: Projectors | None = None

    @property
    def finished(self) -> bool:
        """False where the run was interrupted."""
        return self.result is None or self.result.finished

    @property
    def classification(self) -> Classification:
        """The objective with its linear head.

        Raises:
            InvalidInput: the method trains none.
        """
        if not isinstance(self.objective, Classification):
            raise InvalidInput("this method trains no linear head.")
        return self.objective


def adapt_backbone(
    backbone: Backbone, task: AdaptTask, recipe: AdaptRecipe, folder: Path, *, seed: int = 0
) -> Adapted:
    """Train by the recipe's method, resuming from `folder`; `backbone` is changed in place.

    Raises:
        CollapsedRun: the features became equal.
        FewsightError: a loss is not finite, or the disk refuses a checkpoint.
    """
    method = recipe.of_method
    if recipe.training.sharding != "none":
        raise InvalidInput(
            "training.sharding is for metatrain and pretrain; adapt keeps the backbone whole: set none."
        )
    if method.objective is None:
        return Adapted(backbone.eval(), None, None, 0)
    torch.manual_seed(stream_seed(seed, "weights") >> 1)
    objective = _objective(backbone, task, recipe)
    rank = recipe.lora_rank
    select_tuning(backbone, method.tuning, rank=rank, alpha=float(rank), seed=seed)
    if recipe.drop_path and not set_drop_path(backbone, recipe.drop_path):
        say(f"{backbone.name} has no residual branches that could be dropped; drop_path is left out.")
    settings = training_settings(recipe, len(task.train), backbone)
    start = _projector_state(objective)
    best = BestWeights(folder)
    probe = _probe(task, best) if len(task.stop) and recipe.stop_every else None
    if probe is not None:
        probe(objective, 0)  # the old weights are a candidate like any other
    result = train(
        objective.to(memory_format=torch.channels_last),
        _batches(task, recipe, backbone, seed),
        settings,
        folder,
        seed=seed,
        probe=probe,
        probe_every=recipe.stop_every,
        on_step=_watch(),
    )
    if result.finished and probe is not None:
        best.restore(objective)
    step = best.step if probe is not None else result.steps
    merge_lora(backbone)
    backbone.requires_grad_(True).eval()
    kept = _projector_state(objective)
    return Adapted(
        backbone,
        objective.eval(),
        result,
        step,
        best.interval if probe is not None else None,
        Projectors(kept, start) if kept and start else None,
    )


def _projector_state(objective: Objective) -> dict[str, Tensor]:
    """A copy of the projector's tensors; empty where there is none."""
    projector = getattr(objective, "projector", None)
    if not isinstance(projector, nn.Module):
        return {}
    return {name: value.detach().cpu().clone() for name, value in projector.state_dict().items()}


def training_settings(recipe: AdaptRecipe, photos: int, backbone: Backbone) -> TrainingSettings:
    """Those of the recipe, with steps from epochs and the backbone's rate as a factor."""
    settings = recipe.training
    if recipe.epochs is not None:
        size = recipe.batch if recipe.sampling == "shuffled" else recipe.classes * recipe.photos
        steps = recipe.epochs * photos / size / settings.accumulation
        settings = replace(settings, steps=max(1, round(steps)))
    warmup = min(settings.warmup_steps, settings.steps // 4)
    return replace(
        settings, warmup_steps=warmup, backbone_rate=recipe.backbone_rate(backbone) / settings.learning_rate
    )


def _objective(backbone: Backbone, task: AdaptTask, recipe: AdaptRecipe) -> Objective:
    method, classes = recipe.of_method, len(numpy.unique(task.labels[task.train]))
    if method.objective == "label_contrastive":
        return LabelContrastive(backbone, recipe.loss).to(backbone.device)
    if method.objective == "prototypes":
        return PrototypeTuning(backbone)
    joined = recipe.loss if method.objective == "joint" else None
    objective = Classification(backbone, classes, contrastive=joined, share=recipe.share)
    if method.start == "probe":
        vectors = encode_rows(backbone, task.store, task.train)
        membership = membership_from_labels(torch.from_numpy(task.labels[task.train]))
        fitted = Logistic().prepare(vectors, membership)
        objective.start_head(fitted["weights"], fitted["intercept"])
    return objective.to(backbone.device)


def set_drop_path(backbone: nn.Module, rate: float) -> bool:
    """Stochastic depth in the blocks of a timm vision transformer, growing linearly to `rate`, in place.

    Returns:
        False where there is no residual branch to drop.
    """
    from timm.layers import DropPath

    blocks = [block for block in backbone.modules() if hasattr(block, "drop_path1")]
    for number, block in enumerate(blocks):
        share = rate * number / max(1, len(blocks) - 1)
        for name in ("drop_path1", "drop_path2"):
            setattr(block, name, DropPath(share) if share else nn.Identity())
    return bool(blocks)


def _batches(task: AdaptTask, recipe: AdaptRecipe, backbone: Backbone, seed: int) -> LabelledViews:
    labels = task.labels[task.train]
    rows: BatchRows
    if recipe.sampling == "shuffled":
        rows = Shuffled(task.train, recipe.batch, seed)
    else:
        by_class = [task.train[labels == k] for k in numpy.unique(labels)]
        rows = Balanced(by_class, recipe.classes, recipe.photos, seed)
    augmentation = for_kind(recipe.augmentation, recipe.kind)
    pipelines: list[Augmentation | None] = [augmentation] * recipe.views
    if recipe.of_method.objective == "prototypes":
        pipelines = [None, *pipelines[1:]] if recipe.views > 1 else [None, *pipelines]
    columns = numpy.full(len(task.labels), -1, dtype=numpy.int64)
    columns[task.train] = task.targets(task.train)
    return LabelledViews(task.store, columns, rows, pipelines, backbone.transform, seed, backbone.device)


def _probe(task: AdaptTask, best: BestWeights) -> Callable[[Objective, int], Mapping[str, float]]:
    """Accuracy of prototypes of the training photos on the photos that choose the step."""
    rows = numpy.concatenate([task.train, task.stop])
    learnt = numpy.arange(len(rows)) < len(task.train)
    labels = torch.from_numpy(task.labels[rows])

    def probe(objective: Objective, step: int) -> Mapping[str, float]:
        if step <= best.step:  # seen before an interruption
            return {}
        vectors = encode_rows(objective.backbone(), task.store, rows)
        right = right_answers(vectors, labels, learnt, ~learnt)
        found = proportion_interval(int(right.sum()), len(right))
        best.consider(objective, found, step)
        return {"stopping": found.mean}

    return probe


def _watch() -> Callable[[Objective, int], None]:
    """Stops a run whose features stay equal."""
    state = {"in a row": 0}

    def watch(objective: Objective, step: int) -> None:
        words = objective.alarm() if isinstance(objective, LabelContrastive) else None
        anywhere = bool(
            distributed.all_reduce_max(torch.tensor(float(words is not None)))
        )  # all leave together
        state["in a row"] = state["in a row"] + 1 if anywhere else 0
        if state["in a row"] >= COLLAPSED_STEPS:
            raise CollapsedRun(
                f"stopped at step {step}: {words or 'another process reports equal features.'}"
            )

    return watch


@torch.no_grad()
def encode_rows(backbone: nn.Module, store: PixelStore, rows: NDArray[numpy.int64]) -> Tensor:
    """One vector for each row of the store, `[R, D]` in float32 on the CPU, with the photos as they are."""
    assert isinstance(backbone, Backbone)
    training = backbone.training
    backbone.eval()
    parts = [
        backbone(
            plain_view(store, rows[first : first + ENCODED_AT_ONCE], backbone.transform).to(backbone.device)
        )
        .float()
        .cpu()
        for first in range(0, len(rows), ENCODED_AT_ONCE)
    ]
    backbone.train(training)
    return torch.cat(parts) if parts else torch.zeros(0, backbone.vector_dim)
