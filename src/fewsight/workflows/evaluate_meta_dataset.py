"""`fewsight evaluate --protocol meta-dataset`: the sources in DATA as published, beside the published rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy
import torch
from numpy.typing import NDArray

from fewsight.backbones.encode import Encoder, encode_photos
from fewsight.backbones.feature_cache import FeatureCache
from fewsight.backbones.features import Features, concatenate
from fewsight.data.episode_lists import EpisodeList, EpisodePart, load_episodes
from fewsight.data.fixed_episodes import Episode
from fewsight.data.formats.meta_dataset.find import MissingSource, SourcePhotos, find_source
from fewsight.data.splits import META_DATASET_SOURCES
from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Comparison
from fewsight.progress import Progress, say
from fewsight.protocols.episodes import EpisodeResult, compare_results
from fewsight.protocols.listed_episodes import evaluate_listed_episodes
from fewsight.protocols.meta_dataset import Figure, figure_of, meta_dataset_episodes
from fewsight.workflows.evaluation_results import Evaluation, Result
from fewsight.workflows.evaluation_task import EvaluationTask
from fewsight.workflows.feature_shards import is_embedding
from fewsight.workflows.judged_models import JudgedModel, judged_model, rival_model
from fewsight.workflows.published_table import published_table

__all__ = ["evaluate_on_meta_dataset"]


def evaluate_on_meta_dataset(task: EvaluationTask) -> Evaluation:
    """Score the sources that are there; name the others and what was looked for.

    Raises:
        InvalidInput: no source is there, or an option has no meaning here.
    """
    _check(task)
    sources, missing = _sources(task)
    listed = None if task.load_episodes is None else _listed(task, sources)
    model = judged_model(task)
    run = _Run(task, model, rival_model(task, model), [f"{one.sentence}." for one in missing])
    for photos in sources:
        run.remarks += [f"{photos.source}: {note}." for note in photos.notes]
        if listed is None:
            drawn = meta_dataset_episodes(photos.source, photos.by_class(), seed=task.seed)
            run.score(photos, [drawn[number] for number in range(task.episodes)])
        elif photos.source in listed:
            run.score(photos, listed[photos.source])
    if task.save_episodes is not None:
        _save(task, sources, run.scored)
    return run.evaluation()


def _check(task: EvaluationTask) -> None:
    plain = EvaluationTask(task.source)
    for option, given in (
        ("way", task.way != plain.way),
        ("shot", task.shots != plain.shots),
        ("query", task.query != plain.query),
        ("group-by", task.group_by is not None),
        ("split", task.split is not None),
    ):
        if given:
            raise InvalidInput(
                f"meta-dataset draws ways, shots and queries from the test classes as published: leave --{option} out."
            )
    if is_embedding(task.source) or not task.source.is_dir():
        raise InvalidInput(
            f"{task.source} is no folder of photos; give one that holds the sources as omniglot/, aircraft/, ..."
        )


def _sources(task: EvaluationTask) -> tuple[list[SourcePhotos], list[MissingSource]]:
    found = [find_source(task.source, source) for source in META_DATASET_SOURCES]
    there = [one for one in found if isinstance(one, SourcePhotos)]
    missing = [one for one in found if isinstance(one, MissingSource)]
    if not there:
        raise InvalidInput(
            f"no source of Meta-Dataset is in {task.source}: {'; '.join(one.sentence for one in missing)}."
        )
    return there, missing


@dataclass
class _Run:
    """What is found as the sources go by."""

    task: EvaluationTask
    model: JudgedModel
    rival: JudgedModel | None
    remarks: list[str]
    results: list[Result] = field(default_factory=list)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    scored: dict[str, list[Episode]] = field(default_factory=dict)

    def score(self, photos: SourcePhotos, episodes: list[Episode]) -> None:
        """One source: encode the photos that its episodes draw, each once, and run them."""
        rows = numpy.unique(
            numpy.concatenate([part for one in episodes for part in (one.support, one.query)])
        )
        features, readable = self._encoded(self.model, photos, rows)
        rows = rows[readable]
        kept = [one for one in (_among(rows, drawn) for drawn in episodes) if one is not None]
        self._tell(photos.source, len(readable) - len(rows), len(episodes) - len(kept))
        found = self._judged(self.model, features, kept, len(photos.classes))
        self.results.append(Result(photos.source, None, None, "accuracy", found.accuracy))
        self.figures[photos.source] = figure_of(found.accuracies)
        self.scored[photos.source] = [_rows_back(rows, one) for one in kept]
        if self.rival is None:
            return
        other, same = self._encoded(self.rival, photos, rows)
        if not same.all():
            raise InvalidInput(
                "the two backbones do not read the same photos; no paired comparison is possible."
            )
        second = self._judged(self.rival, other, kept, len(photos.classes))
        metric = f"accuracy of {self.rival.name}"
        self.results.append(Result(photos.source, None, None, metric, second.accuracy, of_rival=True))
        names = (self.model.name, self.rival.name)
        self.comparisons[photos.source] = compare_results(found, second, names)

    def _encoded(
        self, model: JudgedModel, photos: SourcePhotos, rows: NDArray[numpy.int64]
    ) -> tuple[Features, NDArray[numpy.bool_]]:
        """Features of the photos that can be read, and which these are."""
        encoder: Encoder | None = model.encoder
        assert encoder is not None
        readable = numpy.zeros(len(rows), dtype=bool)
        parts = []
        with FeatureCache() as cache, Progress(f"encoding {photos.source}", len(rows)) as bar:
            batches = encode_photos(encoder, photos.select(rows), cache=cache, workers=self.task.workers)
            for batch in batches:
                readable[batch.indices.numpy()] = True
                parts.append(batch.features)
                bar.advance(len(batch.outcomes))
        if not readable.any():
            raise InvalidInput(f"none of the photos of {photos.source} can be read.")
        return concatenate([part for part in parts if part.num_images]), readable

    def _judged(
        self, model: JudgedModel, features: Features, episodes: Sequence[Episode], classes: int
    ) -> EpisodeResult:
        with torch.no_grad():
            return evaluate_listed_episodes(model.head, features, episodes, classes)

    def _tell(self, source: str, unreadable: int, lost: int) -> None:
        if unreadable:
            self.remarks.append(
                f"{source}: {unreadable} photos cannot be read and are left out of their episodes."
            )
        if lost:
            self.remarks.append(
                f"{source}: {lost} episodes left out: a class has no support that can be read."
            )
        for remark in self.remarks[-2:] if unreadable else ():
            say(remark)

    def evaluation(self) -> Evaluation:
        """With the published rows beside ours."""
        table, published = published_table(self.model.name, self.figures)
        return Evaluation(
            "meta-dataset",
            max(map(len, self.scored.values()), default=0),
            tuple(self.results),
            self.comparisons,
            {},
            tuple(self.remarks),
            None,
            (
                "The published rows are trained on what their heading says and see photos squashed to 84, 126 or 224 "
                f"pixels; {self.model.backbone} is trained as its card says and sees its own transform. Photos are not "
                "checked for duplicates, as in the published evaluation.",
            ),
            table,
            published,
        )


def _among(rows: NDArray[numpy.int64], episode: Episode) -> Episode | None:
    """The episode in places among `rows`, without photos that are not there; None where a class loses all supports."""
    support, query = (numpy.isin(part, rows) for part in (episode.support, episode.query))
    if len(numpy.unique(episode.support_way[support])) < len(episode.classes):
        return None
    return replace(
        episode,
        support=numpy.searchsorted(rows, episode.support[support]),
        support_way=episode.support_way[support],
        query=numpy.searchsorted(rows, episode.query[query]),
        query_way=episode.query_way[query],
    )


def _rows_back(rows: NDArray[numpy.int64], episode: Episode) -> Episode:
    return replace(episode, support=rows[episode.support], query=rows[episode.query])


def _fingerprint(sources: Sequence[SourcePhotos]) -> str:
    """Over the classes of the sources and how many photos each has."""
    digest = hashlib.blake2b(digest_size=8)
    for photos in sources:
        for name, count in zip(photos.classes, photos.counts.tolist(), strict=True):
            digest.update(f"{photos.source}/{name}:{count}\n".encode())
    return digest.hexdigest()


def _save(task: EvaluationTask, sources: Sequence[SourcePhotos], scored: dict[str, list[Episode]]) -> None:
    """One part a source."""
    files: list[str] = []
    classes: list[str] = []
    parts = []
    for photos in (one for one in sources if one.source in scored):
        episodes = scored[photos.source]
        rows = numpy.unique(
            numpy.concatenate([part for one in episodes for part in (one.support, one.query)])
        )
        moved = tuple(
            replace(
                one,
                classes=one.classes + len(classes),
                support=numpy.searchsorted(rows, one.support) + len(files),
                query=numpy.searchsorted(rows, one.query) + len(files),
            )
            for one in episodes
        )
        parts.append(EpisodePart(photos.source, 0, 0, moved))
        files += [photos.name(row) for row in rows.tolist()]
        classes += [f"{photos.source}/{name}" for name in photos.classes]
    assert task.save_episodes is not None
    listed = [one for one in sources if one.source in scored]
    EpisodeList(tuple(files), tuple(classes), tuple(parts), _fingerprint(listed)).save(task.save_episodes)


def _listed(task: EvaluationTask, sources: Sequence[SourcePhotos]) -> dict[str, list[Episode]]:
    """The episodes of a file by source, on the rows of the photos that are here.

    Raises:
        InvalidInput: a source of the file is not here, or has other photos.
    """
    assert task.load_episodes is not None
    held = load_episodes(task.load_episodes)
    wanted, named = {part.name for part in held.parts}, set(held.files)
    here = [photos for photos in sources if photos.source in wanted]
    files: list[str] = []
    rows: list[int] = []
    classes: list[str] = []
    firsts: dict[str, int] = {}
    for photos in here:
        firsts[photos.source] = len(classes)
        classes += [f"{photos.source}/{name}" for name in photos.classes]
        for row in range(len(photos)):
            name = photos.name(row)
            if name in named:
                files.append(name)
                rows.append(row)
    place = numpy.array(rows, dtype=numpy.int64)
    fitted = held.on(files, classes, _fingerprint(here))
    return {
        part.name: [
            replace(
                one,
                classes=one.classes - firsts[part.name],
                support=place[one.support],
                query=place[one.query],
            )
            for one in part.episodes
        ]
        for part in fitted.parts
    }
