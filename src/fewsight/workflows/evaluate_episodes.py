"""`fewsight evaluate --protocol episodes`: many small tasks of fixed way and shot."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy
from numpy.typing import NDArray

from fewsight.data.episode_lists import EpisodeList, EpisodePart, load_episodes
from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Comparison, share_interval
from fewsight.heads.prototypes import Prototypes
from fewsight.heads.vectors import VectorHead
from fewsight.progress import Progress, say
from fewsight.protocols.episodes import EpisodeResult, compare_results, evaluate_episodes
from fewsight.protocols.listed_episodes import evaluate_listed_episodes
from fewsight.protocols.shot_curve import curve_shots, shot_curve
from fewsight.workflows.encoded_data import EncodedData
from fewsight.workflows.episode_parts import AnyPart, FixedPart, save_parts
from fewsight.workflows.evaluation_results import Confusion, Evaluation, Result
from fewsight.workflows.evaluation_task import EvaluationTask
from fewsight.workflows.evaluation_words import left_out_words, more_photos
from fewsight.workflows.judged_models import JudgedModel, model_and_data, rival_data, rival_model
from fewsight.workflows.kept_apart import KeptApart, kept_apart

__all__ = ["evaluate_on_episodes"]

USUAL_WAY = 5

CURVE_EPISODES = 100  # of a curve, for heads that go through episodes one by one


def evaluate_on_episodes(task: EvaluationTask) -> Evaluation:
    """Run the episodes of each shot; with a rival, the same ones for both.

    Raises:
        InvalidInput: no episode is possible; the message says what is missing.
    """
    if task.way is not None and task.way < 2:
        raise InvalidInput(f"way is {task.way}: one class is nothing to tell apart; give 2 at least.")
    listed = None if task.load_episodes is None else load_episodes(task.load_episodes)
    model, encoded = model_and_data(task)
    for remark in encoded.remarks:
        say(remark)
    by_class = list(encoded.collection.by_class())
    remarks = list(encoded.remarks)
    way = _possible_way(task, by_class, remarks) if listed is None else 0
    apart = kept_apart(encoded.collection, task.group_by, task.workers)
    run = _Run(task, way, encoded, by_class, apart, [*remarks, *apart.remarks])
    parts = run.drawn() if listed is None else run.listed(listed)
    if task.save_episodes is not None:
        save_parts(task.save_episodes, parts, encoded, apart.groupings)
    rival = rival_model(task, model)
    other = rival_data(encoded, rival, task.workers)
    last = None
    for part in parts:
        found = run.one_part(model, part)
        if found is not None and rival is not None and other is not None:
            run.against(part, found, model, rival, other)
        last = found or last
    if last is None:
        raise InvalidInput(f"no episode is possible: {run.remarks[-1]}")
    return run.evaluation(model, last)


@dataclass
class _Run:
    """One data set, and what is found as the shots go by."""

    task: EvaluationTask
    way: int
    encoded: EncodedData
    by_class: list[NDArray[numpy.int64]]
    apart: KeptApart
    remarks: list[str]
    results: list[Result] = field(default_factory=list)
    comparisons: dict[str, Comparison] = field(default_factory=dict)

    def drawn(self) -> list[FixedPart]:
        """The episodes of each shot; a shot that the data do not allow is left out with a remark."""
        parts = []
        for shot in sorted(set(self.task.shots)):
            try:
                drawn = FixedEpisodes(self.by_class, self.way, shot, self.task.query, seed=self.task.seed)
                parts.append(FixedPart(drawn, self.task.episodes))
            except InvalidInput as error:
                self.remarks.append(f"{shot}-shot is left out: {error}")
        return parts

    def listed(self, episodes: EpisodeList) -> list[EpisodePart]:
        """The episodes of a file, on the rows of these data."""
        collection = self.encoded.collection
        files = [collection.file(row) for row in range(len(collection))]
        parts = list(episodes.on(files, collection.classes, self.encoded.fingerprint).parts)
        counts = ", ".join(f"{len(part.episodes)} of {part.name}" for part in parts)
        self.remarks.append(f"Episodes of {self.task.load_episodes}: {counts}.")
        self.way = parts[-1].way if parts else 0
        return parts

    def one_part(self, model: JudgedModel, part: AnyPart) -> EpisodeResult | None:
        """What the model makes of episodes of one kind; None where no query is left."""
        found = self._judged(model, self.encoded, part)
        self.remarks += left_out_words(found, self.task, part.name)
        if not found.accuracy.n:
            self.remarks.append(
                f"{part.name} is left out: every query has a photo of its group among the supports. Group photos "
                "more finely: several groups a class are needed."
            )
            return None
        self._add(part, "accuracy", found)
        return found

    def against(
        self, part: AnyPart, found: EpisodeResult, model: JudgedModel, rival: JudgedModel, other: EncodedData
    ) -> None:
        """The rival on the same episodes."""
        second = self._judged(rival, other, part)
        self._add(part, f"accuracy of {rival.name}", second, of_rival=True)
        self.comparisons[part.name] = compare_results(found, second, (model.name, rival.name))

    def _add(self, part: AnyPart, metric: str, found: EpisodeResult, *, of_rival: bool = False) -> None:
        way, shot = part.way or None, part.shot or None
        result = Result(self.task.dataset, way, shot, metric, found.accuracy, of_rival)
        self.results.append(result)

    def _judged(self, model: JudgedModel, encoded: EncodedData, part: AnyPart) -> EpisodeResult:
        groups = self.apart.groupings
        if isinstance(part, FixedPart):
            return evaluate_episodes(
                model.head, encoded.features, self.by_class, part.drawn, part.count, groups=groups
            )
        return evaluate_listed_episodes(
            model.head, encoded.features, part.episodes, len(self.by_class), groups=groups
        )

    def evaluation(self, model: JudgedModel, last: EpisodeResult) -> Evaluation:
        """With what the largest shot says of the classes, and with the curve."""
        classes, recalls = self.encoded.collection.classes, last.recalls()
        balanced = share_interval(recalls[~numpy.isnan(recalls)])
        self.results.append(
            replace(self.results[-1], metric="balanced accuracy over classes", value=balanced)
        )
        conclusions = self._curve(model)
        return Evaluation(
            "episodes",
            len(last.accuracies),
            tuple(self.results),
            self.comparisons,
            dict(zip(classes, recalls.tolist(), strict=True)),
            tuple(self.remarks),
            Confusion(classes, last.confusion, last.together),
            conclusions,
        )

    def _curve(self, model: JudgedModel) -> tuple[str, ...]:
        """Accuracy with more and more supports, and in a sentence whether more photos would help."""
        shots = curve_shots([len(rows) for rows in self.by_class], self.way) if self.way else ()
        if len(shots) < 2 or not isinstance(model.head, VectorHead):
            return ()
        task = self.task
        count = task.episodes if type(model.head) is Prototypes else min(task.episodes, CURVE_EPISODES)
        with Progress("curve over shots", len(shots), unit="shots") as bar:
            found = shot_curve(
                model.head, self.encoded.features, self.by_class, shots, count,
                way=self.way, query=task.query, groups=self.apart.groupings, seed=task.seed,
            )  # fmt: skip
            bar.advance(len(shots))
        if not found[-1].accuracy.n:
            return ()
        self.results += [
            Result(task.dataset, self.way, shot, "accuracy, curve over shots", each.accuracy)
            for shot, each in zip(shots, found, strict=True)
        ]
        return (more_photos(shots, found),)


def _possible_way(task: EvaluationTask, by_class: list[NDArray[numpy.int64]], remarks: list[str]) -> int:
    able = sum(len(rows) > min(task.shots) for rows in by_class)
    way = task.way or USUAL_WAY
    if able >= way:
        return way
    if able < 2:
        raise InvalidInput(
            f"{task.dataset} has {able} classes with at least {min(task.shots) + 1} photos; episodes need two. "
            "Give more photos a class."
        )
    remarks.append(f"{able} classes have enough photos: {able}-way episodes in place of {way}-way.")
    return able
