"""Episodes of few-shot classification and segmentation on a folder: drawn, answered by each method, judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.features import Features
from fewsight.backbones.stored_features import StoredFeatures
from fewsight.data.label_maps import LabelMaps
from fewsight.data.masks import IGNORED
from fewsight.errors import InvalidInput
from fewsight.evaluation.segmentation import VOID
from fewsight.heads.dense_baselines import patch_prototypes, thresholded_similarity, whole_image
from fewsight.heads.head import DenseConditioned, Head, Segmented, Support
from fewsight.names import choices, resolve
from fewsight.progress import Progress
from fewsight.protocols.few_shot_segmentation import (
    Answer,
    DenseEpisode,
    EpisodeVerdicts,
    Task,
    decided,
    dense_episode,
    judge_episodes,
)
from fewsight.trained_heads import is_head_folder, read_cst, shipped_cst

__all__ = ["BASELINES", "EpisodeSet", "Method", "dense_head", "head_method"]

Method = Callable[[Support, Features, tuple[int, int]], Segmented]
Supports = Literal["labels", "masks"]

LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7)
BASELINES: Mapping[str, Method] = {
    "always present, whole image": whole_image,
    "prototypes of patches": patch_prototypes,
    **{f"similarity above {level}": partial(thresholded_similarity, level=level) for level in LEVELS},
}


def dense_head(name: str, backbone: Backbone) -> Head:
    """A head by its name, or a trained one by its folder.

    Raises:
        InvalidInput: there is no such head, or no trained weights for this backbone.
    """
    if name not in choices("dense heads"):
        if is_head_folder(name):
            return read_cst(name, backbone)
        raise InvalidInput(
            f"head is {name!r}; expected a folder of `metatrain --head cst` (its model/), or one of: "
            f"{', '.join(choices('dense heads'))}."
        )
    if name == "cst":
        trained = shipped_cst(backbone)
        if trained is None:
            raise InvalidInput(
                f"there are no trained cst weights for {backbone.name}: train them (fewsight metatrain DATA --head cst "
                "--out RUN) and give --head RUN/model, or use correspondence, which needs no training."
            )
        return trained
    made: Head = resolve("dense heads", name).for_backbone(backbone)
    return made.eval()


def head_method(head: Head) -> Method:
    """A head as a method of episodes."""

    def answer(support: Support, query: Features, size: tuple[int, int]) -> Segmented:
        conditioned: Any = head.condition(support)
        dense: DenseConditioned = conditioned
        return dense.segment(query, size)

    return answer


@dataclass(frozen=True)
class EpisodeSet:
    """Photos of one fold with features and masks, and how episodes come from them.

    Attributes:
        photos: features; rows below are rows of these.
        maps: masks.
        classes: class ids of the fold.
        draw: number of the episode, way, shot -> episode.
    """

    photos: StoredFeatures
    maps: LabelMaps
    classes: tuple[int, ...]
    draw: Callable[[int, int, int], DenseEpisode]

    @classmethod
    def of_fold(
        cls, photos: StoredFeatures, maps: LabelMaps, classes: tuple[int, ...], *, seed: int, task: Task
    ) -> EpisodeSet:
        """Episodes by rule (`dense_episode`) over all of the photos."""
        rows = photos.collection.by_class()
        by_class = {number: rows[number] for number in classes}

        def shown(row: int) -> frozenset[int]:
            return frozenset(photos.collection.labels_of(row).tolist())

        def draw(index: int, way: int, shot: int) -> DenseEpisode:
            return dense_episode(by_class, way, shot, seed=seed, index=index, task=task, shown=shown)

        return cls(photos, maps, classes, draw)

    def judged(
        self,
        methods: Mapping[str, Method],
        *,
        way: int,
        shot: int,
        episodes: int,
        supports: Supports,
        void: Literal["published", "strict"] = "strict",
        consistent: bool = False,
    ) -> dict[str, EpisodeVerdicts]:
        """Every method on the same episodes.

        Args:
            supports: whether methods see the supports' masks, or labels alone.
            consistent: clear the pixels of absent classes.
        """
        answers: dict[str, list[Answer]] = {name: [] for name in methods}
        truths, ways = [], []
        with Progress(f"{way}-way {shot}-shot episodes", episodes) as bar:
            for index in range(episodes):
                episode = self.draw(index, way, shot)
                query = self.photos.rows([episode.query])
                truth = self.truth(episode)
                size = (truth.shape[0], truth.shape[1])
                support = self.support(episode, supports)
                for name, method in methods.items():
                    with torch.no_grad():
                        found = method(support, query, size)
                    answers[name].append(
                        decided(found.presence[0], found.foreground[0], consistent=consistent)
                    )
                truths.append(truth)
                ways.append(episode.ways)
                bar.advance(1)
        return {name: judge_episodes(each, truths, ways, void=void) for name, each in answers.items()}

    def truth(self, episode: DenseEpisode) -> Tensor:
        """True map [H, W]: 0 background, n = n-th way, 255 void."""
        labels = self.maps.full(episode.query)
        truth = numpy.zeros(labels.shape, dtype=numpy.int64)
        for number, one in enumerate(episode.ways):
            truth[labels == one + 1] = number + 1
        truth[labels == IGNORED] = VOID
        return torch.from_numpy(truth)

    def support(self, episode: DenseEpisode, supports: Supports) -> Support:
        """Features of all supports in a row, each of its own way."""
        shots = len(episode.supports[0])
        rows = [row for way in episode.supports for row in way]
        membership = torch.eye(len(episode.ways), dtype=torch.bool).repeat_interleave(shots, 0)
        names = tuple(self.photos.collection.classes[number] for number in episode.ways)
        masks = None
        if supports == "masks":
            masks = tuple(self._mask(row, episode.ways[place // shots]) for place, row in enumerate(rows))
        return Support(self.photos.rows(rows), membership, names, masks)

    def _mask(self, row: int, number: int) -> Tensor | None:
        """Foreground of a support at the side that heads see; a small object that vanishes there, at full size.

        A photo that is listed with the class and shows no pixel of it comes without a mask.
        """
        mask = torch.from_numpy(self.maps.one(row, number) == 1)
        if not bool(mask.any()):
            mask = torch.from_numpy(self.maps.full(row) == number + 1)
        return mask if bool(mask.any()) else None


def head_name(head: str) -> str:
    """What a head is called in tables: a folder by its last two parts."""
    path = Path(head)
    return "/".join(path.parts[-2:]) if is_head_folder(path) else head


def best_similarity(verdicts: Mapping[str, EpisodeVerdicts], miou: Mapping[str, float]) -> str:
    """The threshold that was best on these very episodes: an oracle that no user has."""
    return max((name for name in verdicts if name.startswith("similarity")), key=lambda name: miou[name])


def mean_over(parts: Sequence[Any]) -> Any:
    """Mean of the intervals of several folds: independent, so that variances add."""
    from fewsight.evaluation.intervals import Interval

    count = len(parts)
    mean = sum(part.mean for part in parts) / count
    low = mean - sum((part.mean - part.low) ** 2 for part in parts) ** 0.5 / count
    high = mean + sum((part.high - part.mean) ** 2 for part in parts) ** 0.5 / count
    return Interval(mean, low, high, sum(part.n for part in parts))
