"""`fewsight evaluate --protocol episodes`: many small tasks of fixed way and shot."""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import mean_interval
from fewsight.progress import say
from fewsight.protocols.episodes import EpisodeResult, compare_results, evaluate_episodes
from fewsight.workflows.evaluation_results import Evaluation, Result
from fewsight.workflows.evaluation_task import EvaluationTask
from fewsight.workflows.judged_models import model_and_data, rival_data, rival_model
from fewsight.workflows.labelled_photos import groups_of

__all__ = ["evaluate_on_episodes"]


def evaluate_on_episodes(task: EvaluationTask) -> Evaluation:
    """Run the episodes of each shot; with a rival, the same ones for both.

    Raises:
        InvalidInput: no episode is possible; the message says what is missing.
    """
    model, encoded = model_and_data(task)
    for remark in encoded.remarks:
        say(remark)
    rival = rival_model(task, model)
    by_class = list(encoded.collection.by_class())
    groups = groups_of(encoded.collection, task.group_by)
    codes = None if groups is None else numpy.unique(groups, return_inverse=True)[1]
    other = rival_data(encoded, rival, task.workers)
    results: list[Result] = []
    comparisons, remarks, found = {}, list(encoded.remarks), None
    way = _possible_way(task, by_class, remarks)
    for shot in task.shots:
        try:
            episodes = FixedEpisodes(by_class, way, shot, task.query, seed=task.seed)
        except InvalidInput as error:
            remarks.append(f"{shot}-shot is left out: {error}")
            continue
        found = evaluate_episodes(
            model.head, encoded.features, by_class, episodes, task.episodes, groups=codes
        )
        results.append(Result(task.dataset, way, shot, "accuracy", found.accuracy))
        if rival is not None and other is not None:
            second = evaluate_episodes(
                rival.head, other.features, by_class, episodes, task.episodes, groups=codes
            )
            results.append(Result(task.dataset, way, shot, f"accuracy of {rival.name}", second.accuracy))
            comparisons[f"{way}-way {shot}-shot"] = compare_results(found, second, (model.name, rival.name))
    if found is None:
        raise InvalidInput(f"no episode is possible: {remarks[-1]}")
    recalls = dict(zip(encoded.collection.classes, found.recalls().tolist(), strict=True))
    results.append(_balanced(task, way, found))
    return Evaluation("episodes", task.episodes, tuple(results), comparisons, recalls, tuple(remarks))


def _possible_way(task: EvaluationTask, by_class: list[NDArray[numpy.int64]], remarks: list[str]) -> int:
    able = sum(len(rows) > min(task.shots) for rows in by_class)
    if able >= task.way:
        return task.way
    if able < 2:
        raise InvalidInput(
            f"{task.dataset} has {able} classes with at least {min(task.shots) + 1} photos; episodes need two. "
            "Give more photos a class."
        )
    remarks.append(f"{able} classes have enough photos: {able}-way episodes in place of {task.way}-way.")
    return able


def _balanced(task: EvaluationTask, way: int, found: EpisodeResult) -> Result:
    recalls = found.recalls()
    drawn = recalls[~numpy.isnan(recalls)]
    return Result(task.dataset, way, task.shots[-1], "balanced accuracy over classes", mean_interval(drawn))
