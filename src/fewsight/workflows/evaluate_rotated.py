"""`fewsight evaluate --protocol rotated-episodes`: photos turned by 90, 180 and 270 degrees are further classes.

Adam Santoro et al., "Meta-Learning with Memory-Augmented Neural Networks", ICML 2016: the usual practice on Omniglot,
in training and in the published figures (Vinyals et al. 2016; Snell et al. 2017). No search for duplicates: a
character that looks the same turned is two classes, as published.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy
import torch

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.features import Features, pool
from fewsight.data.collection import Collection
from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.data.stored_photos import store_photos
from fewsight.errors import InvalidInput
from fewsight.heads.vectors import VectorHead
from fewsight.protocols.episodes import evaluate_episodes
from fewsight.training.balanced_source import plain_view
from fewsight.training.episode_source import rotated_classes
from fewsight.workflows.encoded_data import read_judged
from fewsight.workflows.evaluation_results import Evaluation, Result
from fewsight.workflows.evaluation_task import EvaluationTask
from fewsight.workflows.judged_models import judged_model

__all__ = ["evaluate_on_rotated_episodes"]

ENCODED_AT_ONCE = 256


def evaluate_on_rotated_episodes(task: EvaluationTask) -> Evaluation:
    """Episodes of four times the classes, at each shot.

    Raises:
        InvalidInput: a head that reads patches, a rival, groups, or lists are asked for; or no episode is possible.
    """
    task.without_lists()
    if task.against is not None or task.group_by is not None:
        raise InvalidInput(
            "rotated-episodes compares nothing and knows no groups: leave --against and --group-by out."
        )
    collection, warnings = read_judged(task.source, **task.reading)
    model = judged_model(task)
    if not isinstance(model.head, VectorHead) or model.encoder is None:
        raise InvalidInput(f"rotated-episodes judges heads on one vector a photo; {task.head} reads patches.")
    vectors = _turned_vectors(collection, model.encoder.backbone, task.workers)
    by_class = rotated_classes(list(collection.by_class()), len(collection))
    results = []
    way = 5 if task.way is None else task.way
    for shot in sorted(set(task.shots)):
        episodes = FixedEpisodes(by_class, way, shot, task.query, seed=task.seed)
        found = evaluate_episodes(model.head, Features(cls=vectors), by_class, episodes, task.episodes)
        results.append(Result(task.dataset, way, shot, "accuracy", found.accuracy))
    remark = f"{len(by_class)} classes: {len(collection.classes)} and each turned by 90, 180 and 270 degrees."
    return Evaluation(task.protocol, task.episodes, tuple(results), remarks=(*warnings, remark))


@torch.no_grad()
def _turned_vectors(collection: Collection, backbone: Backbone, workers: int | None) -> torch.Tensor:
    """`[4 N, D]`: row r + k N is photo r turned k times."""
    backbone.eval()
    parts = []
    with tempfile.TemporaryDirectory() as place:
        store = store_photos(collection, backbone.transform, Path(place), workers=workers)
        if store.unreadable:
            name = collection.file(min(store.unreadable))
            raise InvalidInput(f"{name} cannot be read; leave it out, `fewsight doctor` says why.")
        rows = numpy.arange(len(store))
        for turns in range(4):
            for first in range(0, len(rows), ENCODED_AT_ONCE):
                view = plain_view(store, rows[first : first + ENCODED_AT_ONCE], backbone.transform)
                turned = torch.rot90(view, turns, dims=(2, 3)).to(backbone.device)
                parts.append(pool(backbone.features(turned), backbone.pooling).float().cpu())
    return torch.cat(parts)
