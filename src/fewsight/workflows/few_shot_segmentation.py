"""`fewsight evaluate --protocol few-shot-segmentation | pascal-5i | coco-20i | fss-1000`.

Any folder with masks is a benchmark: its classes are split into folds by rule (`data.class_folds`), episodes are drawn
by seed. The three named ones take their published lists, folds and episodes, and print the published rows beside ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.encode import Encoder
from fewsight.backbones.feature_cache import FeatureCache
from fewsight.backbones.features import Request
from fewsight.backbones.loading import load_backbone
from fewsight.backbones.registry import BUNDLED
from fewsight.backbones.stored_features import store_features
from fewsight.data.class_folds import class_fold, fold_count
from fewsight.data.collection import Collection
from fewsight.data.fscs_benchmarks import FOLDS, Benchmark, read_benchmark
from fewsight.data.label_maps import LabelMaps
from fewsight.data.layouts import read_layout
from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Comparison
from fewsight.heads.head import Head
from fewsight.progress import say
from fewsight.protocols.few_shot_segmentation import (
    DenseEpisode,
    EpisodeVerdicts,
    FewShotFigures,
    compare_verdicts,
    few_shot_figures,
)
from fewsight.protocols.published_fscs import published_rows
from fewsight.workflows.dense_episodes import (
    BASELINES,
    EpisodeSet,
    Method,
    best_similarity,
    dense_head,
    head_method,
    head_name,
    mean_over,
)
from fewsight.workflows.evaluation_results import Evaluation, Result
from fewsight.workflows.evaluation_task import EvaluationTask

__all__ = ["evaluate_dense", "evaluate_few_shot_segmentation"]

SIDE = 256  # of the bundled backbone, in pixels: 16 x 16 patches
WAYS = (1, 2)  # as published
CORRESPONDENCE = "correspondence"


def evaluate_few_shot_segmentation(task: EvaluationTask) -> Evaluation:
    """Judge a dense head on episodes with masks; see the module.

    Raises:
        InvalidInput: the data have no masks or too few photos, or an option means nothing here.
    """
    for name, value in (("--split", task.split), ("--group-by", task.group_by)):
        if value is not None:
            raise InvalidInput(f"{task.protocol} divides the photos itself: leave {name} out.")
    heads = [CORRESPONDENCE if task.head == "prototypes" else task.head]
    if task.against is not None:
        heads.append(task.against)
    backbone = squashed_backbone(task.backbone, task.image_size)
    made = {head_name(name): dense_head(name, backbone) for name in heads}
    return evaluate_dense(task, backbone, made)


def squashed_backbone(name: str, image_size: int | None) -> Backbone:
    """A backbone that is shown all of a photo; 256 px for the bundled one unless said otherwise."""
    backbone = load_backbone(name)
    side = image_size or (SIDE if backbone.name == BUNDLED else min(backbone.image_size))
    backbone.transform = replace(backbone.transform, size=(side, side), mode="squash", crop_fraction=1.0)
    return backbone


def evaluate_dense(task: EvaluationTask, backbone: Backbone, heads: Mapping[str, Head]) -> Evaluation:
    """Judge heads of one backbone: the first one, and paired differences to all others and to the baselines."""
    request = Request(attention=backbone.num_heads > 0)
    for head in heads.values():
        request = request.joined(head.request)
    encoder = Encoder(
        backbone, request, precision=task.precision if task.precision != "auto" else "fp32",
        device=None if task.device == "auto" else task.device, batch_size=task.batch_size,
    )  # fmt: skip
    with FeatureCache() as cache:
        run = _Run(task, encoder, cache, {name: head_method(head) for name, head in heads.items()})
        return run.evaluation()


@dataclass
class _Run:
    """One evaluation, fold by fold."""

    task: EvaluationTask
    encoder: Encoder
    cache: FeatureCache
    heads: dict[str, Method]
    remarks: list[str] = field(default_factory=list)
    folds: int = 1

    def evaluation(self) -> Evaluation:
        task = self.task
        ways = WAYS if task.way is None else (task.way,)
        if task.protocol == "fss-1000" or task.episode_task == "fs-s":
            ways = (1,) if task.way is None else ways
        methods = {**self.heads, **BASELINES}
        found: dict[tuple[int, int], list[tuple[dict[str, EpisodeVerdicts], tuple[int, ...]]]] = {}
        for episodes in self._folds(max(task.shots)):
            for way in ways:
                if way > len(episodes.classes):
                    say(f"{way}-way is left out: the fold has {len(episodes.classes)} classes.", once=True)
                    continue
                for shot in task.shots:
                    verdicts = episodes.judged(
                        methods, way=way, shot=shot, episodes=self._count(episodes),
                        supports=task.supports, void=task.void,
                    )  # fmt: skip
                    found.setdefault((way, shot), []).append((verdicts, episodes.classes))
        if not found:
            raise InvalidInput(
                "no episode is possible: the folds have too few classes for the ways asked for."
            )
        results: list[Result] = []
        comparisons: dict[str, Comparison] = {}
        recalls: dict[str, float] = {}
        for (way, shot), folds in found.items():
            results += self._results(way, shot, folds)
            comparisons |= self._comparisons(way, shot, folds)
        self._published(found)
        count = sum(len(v[next(iter(self.heads))].right) for v, _ in next(iter(found.values())))
        return Evaluation(task.protocol, count, tuple(results), comparisons, recalls, tuple(self.remarks))

    def _count(self, episodes: EpisodeSet) -> int:
        if self.task.protocol == "few-shot-segmentation":
            return self.task.episodes
        most = 1000 if self.task.protocol != "fss-1000" else len(episodes.photos)
        return min(most, self.task.episodes)

    def _folds(self, shot: int) -> Iterator[EpisodeSet]:
        task = self.task
        if task.protocol == "few-shot-segmentation":
            yield from self._own_folds(shot)
            return
        name: Any = task.protocol
        numbers = range(FOLDS[name]) if task.fold is None else [task.fold]
        self.folds = len(numbers)
        for number in numbers:
            benchmark = read_benchmark(task.source, name, fold=number)
            yield self._published_set(benchmark)

    def _own_folds(self, shot: int) -> Iterator[EpisodeSet]:
        task = self.task
        reading = read_layout(task.source, class_level=task.class_level, skip_empty=task.skip_empty)
        self.remarks += reading.warnings
        collection = _with_masks(reading.collection, self.remarks)
        able = int((collection.counts() > shot).sum())
        total = fold_count(able)
        numbers = range(total) if task.fold is None else [task.fold]
        self.folds = len(numbers)
        for number in numbers:
            fold = class_fold(collection, number, folds=total, least=shot + 1, seed=task.seed)
            chosen = collection.select(fold.test)
            photos = store_features(self.encoder, chosen, self.cache, workers=task.workers)
            self.remarks += [f"{file} is left out: {note}." for file, note in photos.left_out[:3]]
            maps = LabelMaps(photos.collection, photos.sizes, self._side)
            names = [collection.classes[k] for k in fold.novel]
            self.remarks.append(f"Fold {number} of {total}: {', '.join(names[:20])}; {len(photos)} photos.")
            counts = photos.collection.counts()
            classes = tuple(k for k in fold.novel if counts[k] > shot)
            yield EpisodeSet.of_fold(photos, maps, classes, seed=task.seed, task=task.episode_task)

    def _published_set(self, benchmark: Benchmark) -> EpisodeSet:
        task = self.task
        if task.episode_task != "fs-cs" and benchmark.name != "fss-1000":
            rows = benchmark.collection
        else:
            rows = self._drawn(benchmark)
        photos = store_features(self.encoder, rows, self.cache, workers=task.workers)
        if len(photos) != len(rows):
            raise InvalidInput(
                f"{photos.left_out[0][0]}: {photos.left_out[0][1]}. The published episodes need every photo."
            )
        maps = LabelMaps(photos.collection, photos.sizes, self._side, benchmark.label_map)
        if task.episode_task != "fs-cs" and benchmark.name != "fss-1000":
            return EpisodeSet.of_fold(photos, maps, benchmark.classes, seed=task.seed, task=task.episode_task)
        places = {rows.file(row): row for row in range(len(rows))}
        drawn: dict[tuple[int, int], list[DenseEpisode]] = {}

        def draw(index: int, way: int, shot: int) -> DenseEpisode:
            if (way, shot) not in drawn:
                drawn[way, shot] = [
                    DenseEpisode(*each) for each in benchmark.episodes(way, shot, task.episodes)
                ]
            one = drawn[way, shot][index]

            def there(row: int) -> int:
                return places[benchmark.collection.file(row)]

            supports = tuple(tuple(there(row) for row in shots) for shots in one.supports)
            return DenseEpisode(there(one.query), one.ways, supports)

        return EpisodeSet(photos, maps, benchmark.classes, draw)

    def _drawn(self, benchmark: Benchmark) -> Collection:
        """The photos that the episodes read: of COCO a twentieth of all."""
        task, used = self.task, set()
        ways = (task.way,) if task.way else WAYS if benchmark.name != "fss-1000" else (1,)
        for way in ways:
            if way > len(benchmark.classes):
                continue
            for shot in task.shots:
                for episode in benchmark.episodes(way, shot, task.episodes):
                    used |= {episode.query, *(row for shots in episode.supports for row in shots)}
        return benchmark.collection.select(numpy.array(sorted(used)))

    @property
    def _side(self) -> int:
        return min(self.encoder.backbone.image_size)

    def _figures(
        self, folds: list[tuple[dict[str, EpisodeVerdicts], tuple[int, ...]]]
    ) -> dict[str, list[FewShotFigures]]:
        seed = self.task.seed
        return {
            name: [few_shot_figures(verdicts[name], classes, seed=seed) for verdicts, classes in folds]
            for name in folds[0][0]
        }

    def _results(
        self, way: int, shot: int, folds: list[tuple[dict[str, EpisodeVerdicts], tuple[int, ...]]]
    ) -> list[Result]:
        figures = self._figures(folds)
        oracle = best_similarity(
            folds[0][0], {name: mean_over([f.miou for f in each]).mean for name, each in figures.items()}
        )
        results = []
        for name, each in figures.items():
            if name.startswith("similarity") and name != oracle:
                continue
            of = "" if name == next(iter(self.heads)) else f" of {name}"
            of += " (the best level on these episodes)" if name == oracle else ""
            for metric, values in self._metrics(each):
                results.append(
                    Result(self.task.dataset, way, shot, metric + of, mean_over(values), of_rival=bool(of))
                )
        return results

    def _metrics(self, figures: list[FewShotFigures]) -> Iterator[tuple[str, list[Any]]]:
        task = self.task.episode_task
        if task == "fs-c":
            yield "accuracy", [each.accuracy for each in figures]
            return
        if task == "fs-cs":
            yield "exact ratio", [each.exact_ratio for each in figures]
        yield "mIoU", [each.miou for each in figures]
        yield "FB-IoU", [each.fb_iou for each in figures]

    def _comparisons(
        self, way: int, shot: int, folds: list[tuple[dict[str, EpisodeVerdicts], tuple[int, ...]]]
    ) -> dict[str, Comparison]:
        """The first head against the other one, or against the best baseline; one fold at a time."""
        first, *others = self.heads
        if not others:
            figures = self._figures(folds)
            others = [max(BASELINES, key=lambda name: mean_over([f.miou for f in figures[name]]).mean)]
        told: dict[str, Comparison] = {}
        for number, (verdicts, classes) in enumerate(folds):
            where = f"{way}-way {shot}-shot" + (f", fold {number}" if len(folds) > 1 else "")
            for other in others:
                pairs = compare_verdicts(
                    verdicts[first], verdicts[other], classes, (first, other), seed=self.task.seed
                )
                told |= {f"{where}, {what}": found for what, found in pairs.items()}
        return told

    def _published(self, found: Mapping[tuple[int, int], Any]) -> None:
        for way, shot in found:
            rows = published_rows(self.task.protocol, self.task.episode_task, way, shot)
            self.remarks += [row.sentence() for row in rows]
        if self.task.protocol in ("pascal-5i", "coco-20i"):
            same = self.task.void == "published" and self.task.episodes >= 1000 and self.folds == 4
            self.remarks.append(
                "Published rows are means of four folds of 1,000 episodes, void pixels counted as background"
                + (
                    "; ours are made the same way."
                    if same
                    else ": ours differ (--void, --episodes or --fold)."
                )
            )


def _with_masks(collection: Collection, remarks: list[str]) -> Collection:
    masks = collection.masks
    has = numpy.array([masks is not None and bool(masks[row]) for row in range(len(collection))], dtype=bool)
    if not has.any():
        raise InvalidInput(
            "no photo has a mask: few-shot segmentation is judged on masks. Put them beside the photos as 1_mask.png, "
            "or in masks/."
        )
    if not has.all():
        remarks.append(f"{int((~has).sum())} photos without a mask left out.")
    return collection.select(has)
