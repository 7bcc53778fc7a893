"""Stage 2 of `adapt`: a head on frozen features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.data.pipelines import AUGMENTATIONS
from fewsight.heads.head import membership_from_labels
from fewsight.heads.logistic import Logistic
from fewsight.heads.prototypes import Prototypes
from fewsight.objectives.classification import Classification
from fewsight.seeding import stream_seed
from fewsight.training.balanced_source import LabelledViews, Shuffled
from fewsight.training.loop import train
from fewsight.training.settings import TrainingSettings
from fewsight.workflows.adapt_recipe import AdaptRecipe
from fewsight.workflows.adapt_training import Adapted, AdaptTask

__all__ = ["head_answers", "train_linear"]


@torch.no_grad()
def head_answers(
    head: str, features: Tensor, labels: NDArray[numpy.int64], queries: Tensor
) -> NDArray[numpy.int64]:
    """The class of each query by a head that has learnt from the features.

    Args:
        head: `prototypes` or `logistic`.
        features, queries: `[N, D]` and `[Q, D]`.
        labels: class ids `[N]`.
    """
    chosen = Prototypes() if head == "prototypes" else Logistic()
    membership = membership_from_labels(torch.from_numpy(labels))
    scores = chosen.compare(queries, chosen.prepare(features, membership))
    return numpy.unique(labels)[scores.argmax(1).numpy()]


def train_linear(
    backbone: Backbone, task: AdaptTask, recipe: AdaptRecipe, folder: Path, *, seed: int = 0
) -> Adapted:
    """A linear layer by gradient on randomly cropped photos, the backbone frozen: the second stage as published.

    The last step is kept; no photo but those of training is looked at.
    """
    stage = recipe.stage2
    torch.manual_seed(stream_seed(seed, "weights of stage 2") >> 1)
    classes = len(numpy.unique(task.labels[task.train]))
    objective = Classification(backbone, classes, scale=None, frozen=True).to(backbone.device)
    steps = max(1, round(stage.epochs * len(task.train) / stage.batch))
    settings = TrainingSettings(
        steps=steps,
        learning_rate=stage.learning_rate,
        final_learning_rate=stage.final_learning_rate,
        optimiser="momentum",
        checkpoint_every=recipe.training.checkpoint_every,
        log_every=recipe.training.log_every,
    )
    columns = numpy.full(len(task.labels), -1, dtype=numpy.int64)
    columns[task.train] = task.targets(task.train)
    crops = replace(AUGMENTATIONS["crop_flip"], interpolation="bilinear")
    rows = Shuffled(task.train, stage.batch, seed)
    source = LabelledViews(task.store, columns, rows, [crops], backbone.transform, seed, backbone.device)
    result = train(objective, source, settings, folder, seed=seed)
    backbone.requires_grad_(True).eval()
    return Adapted(backbone, objective.eval(), result, result.steps)
