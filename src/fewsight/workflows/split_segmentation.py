"""`fewsight evaluate --protocol segmentation`: a linear layer on patch tokens, learnt and judged on masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy
import torch
from torch import Tensor

from fewsight.backbones.encode import Encoder, encode_photos
from fewsight.backbones.feature_cache import FeatureCache
from fewsight.backbones.features import Request
from fewsight.backbones.loading import load_backbone
from fewsight.data.collection import Collection
from fewsight.data.layouts import read_layout
from fewsight.data.masks import label_map, read_mask_names
from fewsight.errors import InvalidInput
from fewsight.evaluation.resampled import compare_resampled
from fewsight.progress import Progress
from fewsight.protocols.segmentation import (
    LinearSegmentation,
    SegmentationResult,
    fit_linear_segmentation,
    judge_segmentation,
    patch_targets,
)
from fewsight.seeding import numpy_generator
from fewsight.workflows.evaluation_results import Evaluation, Result
from fewsight.workflows.evaluation_task import EvaluationTask
from fewsight.workflows.feature_shards import is_embedding
from fewsight.workflows.kept_apart import kept_apart
from fewsight.workflows.labelled_photos import group_column
from fewsight.workflows.train_and_test import train_and_test

__all__ = ["evaluate_on_masks"]

PATCHES = 50_000  # to learn from; more change little and cost minutes
IGNORED = -1
NOT_A_CLASS = frozenset({"unlabelled", "unlabeled", "void", "ignore", "ignored", "unknown"})


def evaluate_on_masks(task: EvaluationTask) -> Evaluation:
    """Learn from the training photos that have masks, judge on the test photos that have masks.

    Mask value 0 is the class background, or counts nowhere where `classes.csv` names it unlabelled or void.

    Raises:
        InvalidInput: there are no masks on one side, or a mask is wrong; the message says which.
    """
    task.without_head()
    task.without_lists()
    if is_embedding(task.source):
        raise InvalidInput(
            f"segmentation needs masks, and {task.source} holds features: give the photos themselves."
        )
    encoder, rival = _whole_photo_encoder(task, task.backbone), None
    if task.against is not None:
        rival = _whole_photo_encoder(task, task.against)
    collection, remarks = _masked_photos(task)
    apart = kept_apart(collection, task.group_by, task.workers)
    sides = train_and_test(collection, apart.groups, duplicates=apart.duplicates, seed=task.seed)
    remarks += [*apart.remarks, *sides.remarks]
    classes = _Classes.of(collection)
    photos = collection.select(sides.train), collection.select(sides.test)
    found = _Run(encoder, classes, task.workers, task.seed, remarks).judged(*photos)
    results, comparisons = _results(task.dataset, found), {}
    if rival is not None:
        other = _Run(rival, classes, task.workers, task.seed, []).judged(*photos)
        results += _results(task.dataset, other, f" of {rival.backbone.name}")
        names = (encoder.backbone.name, rival.backbone.name)
        comparisons = {
            name: compare_resampled(drawn, other.resampled[name], names=names)
            for name, drawn in found.resampled.items()
        }
    remarks += [
        f"IoU of {name}: {100 * value:.1f} %."
        for name, value in zip(classes.names, found.iou.tolist(), strict=True)
        if value == value
    ]
    return Evaluation(task.protocol, None, tuple(results), comparisons, {}, tuple(remarks))


def _results(dataset: str, found: SegmentationResult, of: str = "") -> list[Result]:
    return [
        Result(dataset, None, None, name + of, drawn.interval, of_rival=bool(of))
        for name, drawn in found.resampled.items()
    ]


def _whole_photo_encoder(task: EvaluationTask, backbone: str) -> Encoder:
    """An encoder of patch tokens that sees the whole photo, not the centre of it, as masks are of the whole."""
    loaded = load_backbone(backbone, image_size=task.image_size)
    loaded.transform = replace(loaded.transform, mode="squash", crop_fraction=1.0)
    return Encoder(
        loaded, Request(), precision=task.precision, device=task.device, batch_size=task.batch_size
    )


def _masked_photos(task: EvaluationTask) -> tuple[Collection, list[str]]:
    """The photos that have masks, and what was left out."""
    reading = read_layout(
        task.source,
        class_level=task.class_level,
        skip_empty=task.skip_empty,
        group_column=group_column(task.group_by),
    )
    collection = reading.collection.whole()
    if task.split is not None:
        collection = collection.select(collection.in_split(task.split))
    masked = numpy.array([photo.mask is not None for photo in collection], dtype=bool)
    if not masked.any():
        raise InvalidInput(
            f"{task.source} has no masks; put them beside the photos as 1_mask.png, or in masks/."
        )
    remarks = list(reading.warnings)
    if not masked.all():
        remarks.append(f"{(~masked).sum()} photos without a mask left out.")
    return collection.select(masked), remarks


@dataclass(frozen=True)
class _Classes:
    """Names of the classes of pixels, background among them where it is one."""

    names: tuple[str, ...]
    of_values: dict[int, str]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, collection: Collection) -> _Classes:
        named = read_mask_names(collection.root)
        background = () if named.get(0, "").lower() in NOT_A_CLASS else (named.get(0) or "background",)
        return cls((*background, *collection.classes), named, collection.classes)

    @property
    def count(self) -> int:
        return len(self.names)

    def pixels(self, photo: Any, size: tuple[int, int]) -> Tensor:
        """Class of each pixel, long `[H, W]`."""
        values = torch.from_numpy(label_map(photo, size, self.labels, self.of_values)).long()
        if len(self.names) > len(self.labels):
            return values
        return torch.where(values > 0, values - 1, IGNORED)


@dataclass
class _Run:
    """One backbone on one data set."""

    encoder: Encoder
    classes: _Classes
    workers: int | None
    seed: int
    remarks: list[str]

    def judged(self, learnt: Collection, photos: Collection) -> SegmentationResult:
        """Learn from some photos, judge on others."""
        return judge_segmentation(
            self.answers(photos, self.learn(learnt)), self.classes.count, seed=self.seed
        )

    def learn(self, photos: Collection) -> LinearSegmentation:
        """Fit the layer on a sample of the patches of each photo."""
        rows, targets, each = [], [], max(1, PATCHES // max(1, len(photos)))
        for number, (patches, labels) in enumerate(self._photos(photos, "learning")):
            grid = (patches.shape[0], patches.shape[1])
            shares = patch_targets(labels, grid, self.classes.count, IGNORED)
            chosen = numpy_generator(self.seed, "patches", number).permutation(len(shares))[:each]
            kept = torch.from_numpy(numpy.sort(chosen))
            rows.append(patches.flatten(0, 1)[kept])
            targets.append(shares[kept])
        if not rows:
            raise InvalidInput("none of the photos to learn from can be read.")
        return fit_linear_segmentation(torch.cat(rows), torch.cat(targets))

    def answers(self, photos: Collection, layer: LinearSegmentation) -> Iterator[tuple[Tensor, Tensor]]:
        """Answered and true class of each pixel, photo by photo."""
        for patches, labels in self._photos(photos, "judging"):
            yield layer.label_map(patches, (labels.shape[0], labels.shape[1])), labels

    def _photos(self, photos: Collection, doing: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Patch tokens `[h, w, D]` and classes of the pixels of each photo that can be read."""
        lost = 0
        with FeatureCache() as cache, Progress(doing, len(photos)) as bar:
            for batch in encode_photos(self.encoder, photos, cache=cache, workers=self.workers):
                decoded = [outcome for outcome in batch.outcomes if outcome.decoded]
                lost += len(batch.outcomes) - len(decoded)
                tokens = batch.features.patches
                if decoded and tokens is None:
                    raise InvalidInput(
                        f"{self.encoder.backbone.name} gives no patch tokens; choose a transformer."
                    )
                for row, outcome in enumerate(decoded):
                    assert tokens is not None
                    assert outcome.original_size is not None
                    labels = self.classes.pixels(photos[outcome.index], outcome.original_size)
                    yield tokens[row], labels
                bar.advance(len(batch.outcomes))
        if lost:
            self.remarks.append(f"{lost} photos cannot be read and are left out.")
