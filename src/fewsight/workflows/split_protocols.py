"""The protocols of `fewsight evaluate` that learn from one part of the data and judge on another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray

from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Comparison, Interval, compare, proportion_interval
from fewsight.evaluation.resampled import Resampled, compare_resampled
from fewsight.progress import say
from fewsight.protocols.low_shot import METHODS, evaluate_low_shot
from fewsight.protocols.multi_label import evaluate_multi_label
from fewsight.protocols.neighbours import evaluate_neighbours
from fewsight.workflows.encoded_data import EncodedData, vectors_of
from fewsight.workflows.evaluation_results import Evaluation, Result
from fewsight.workflows.evaluation_task import EvaluationTask
from fewsight.workflows.judged_models import model_and_data, rival_data, rival_model
from fewsight.workflows.kept_apart import kept_apart
from fewsight.workflows.train_and_test import TrainAndTest, train_and_test

__all__ = ["evaluate_on_splits"]

SWEPT = (
    20_000  # labelled photos times classes up to which penalties are swept: about a minute on one processor
)


@dataclass(frozen=True)
class _Figure:
    """One measure, with what pairs are made of: `values` are its parts (draws or photos), or it is `resampled`."""

    metric: str
    value: Interval
    values: NDArray[numpy.float64] | None = None
    way: int | None = None
    shot: int | None = None
    resampled: Resampled | None = None

    def against(self, other: _Figure, names: tuple[str, str], unit: str) -> Comparison:
        """The paired difference from another backbone's."""
        if self.resampled is not None and other.resampled is not None:
            return compare_resampled(self.resampled, other.resampled, names=names, unit=unit)
        assert self.values is not None
        assert other.values is not None
        return compare(self.values, other.values, names=names, unit=unit)


@dataclass(frozen=True)
class _Found:
    """What a protocol found, in the same order for every backbone."""

    figures: list[_Figure]
    recalls: dict[str, float]
    remarks: list[str]
    unit: str


def evaluate_on_splits(task: EvaluationTask) -> Evaluation:
    """Frozen features of one backbone, or of two on the same photos, through `low-shot`, `knn` or `multi-label`.

    Raises:
        InvalidInput: the data does not allow the protocol; the message says what is missing.
    """
    task.without_head()
    task.without_lists()
    protocol = _PROTOCOLS[task.protocol]
    model, encoded = model_and_data(task)
    for remark in encoded.remarks:
        say(remark)
    rival = rival_model(task, model)
    other = rival_data(encoded, rival, task.workers)
    apart = kept_apart(encoded.collection, task.group_by, task.workers)
    sides = train_and_test(encoded.collection, apart.groups, duplicates=apart.duplicates, seed=task.seed)
    found = protocol(encoded, sides, task.seed)
    results = [_result(task.dataset, figure) for figure in found.figures]
    comparisons: dict[str, Comparison] = {}
    if rival is not None and other is not None:
        names = (model.backbone, rival.backbone)
        second = protocol(other, sides, task.seed)
        for ours, theirs in zip(found.figures, second.figures, strict=True):
            results.append(_result(task.dataset, theirs, f" of {rival.backbone}"))
            comparisons[_words(ours)] = ours.against(theirs, names, found.unit)
    remarks = (*encoded.remarks, *apart.remarks, *sides.remarks, *found.remarks)
    return Evaluation(task.protocol, None, tuple(results), comparisons, found.recalls, remarks)


def _result(dataset: str, figure: _Figure, of: str = "") -> Result:
    return Result(dataset, figure.way, figure.shot, figure.metric + of, figure.value, of_rival=bool(of))


def _words(figure: _Figure) -> str:
    return figure.metric if figure.shot is None else f"{figure.shot} a class, {figure.metric}"


def _single_label(
    encoded: EncodedData, sides: TrainAndTest
) -> tuple[tuple[torch.Tensor, ...], NDArray[numpy.int64], list[str]]:
    """Training and test features with labels, the rows of the test, and what was left out."""
    targets, remarks = encoded.collection.targets(), []
    if len(numpy.unique(targets[sides.train])) < 2:
        raise InvalidInput(
            "there is one class alone to learn from, and nothing to tell it from; give two at least."
        )
    known = numpy.isin(targets[sides.test], targets[sides.train])
    if not known.all():
        remarks.append(f"{(~known).sum()} test photos left out: no photo of their class to learn from.")
    vectors, test = vectors_of(encoded.features), sides.test[known]
    parts = (vectors[sides.train], torch.from_numpy(targets[sides.train]), vectors[test])
    return (*parts, torch.from_numpy(targets[test])), test, remarks


def _low_shot(encoded: EncodedData, sides: TrainAndTest, seed: int) -> _Found:
    (train, labels, test, truth), _, remarks = _single_label(encoded, sides)
    counts = torch.unique(labels, return_counts=True)[1]
    way, smallest = len(counts), int(counts.min())
    methods: tuple[str, ...] = METHODS
    absent = [shot for shot in (1, 2, 5) if shot > smallest]
    if absent:
        remarks.append(
            f"{' and '.join(map(str, absent))} photos a class are left out: a class has {smallest} to learn from."
        )
    drawn = [max(1, round(0.01 * count)) for count in counts.tolist()]
    if max(drawn) == 1:
        remarks.append("1 % of the labels is one photo a class here.")
    if max(5 * way, len(labels) // 10) * way > SWEPT:
        methods = (METHODS[0], METHODS[2])
        remarks.append(f"The sweep of penalties is left out: with {way} classes it would take too long.")
    figures = []
    for found in evaluate_low_shot(train, labels, test, truth, seed=seed, methods=methods):
        amount = "" if found.share is None else f", {100 * found.share:g} % of the labels"
        figures.append(
            _Figure(
                f"accuracy, {found.method}{amount}",
                found.accuracy,
                found.accuracies,
                None if found.per_class is None else way,
                found.per_class,
            )
        )
    return _Found(figures, {}, remarks, "draws")


def _knn(encoded: EncodedData, sides: TrainAndTest, seed: int) -> _Found:
    (train, labels, test, truth), _, remarks = _single_label(encoded, sides)
    answered = evaluate_neighbours(train, labels, test, truth)
    figures = [
        _Figure(
            f"accuracy, k-NN with k = {k}",
            proportion_interval(int(right.sum()), len(right)),
            right.double().numpy(),
        )
        for k, right in answered.items()
    ]
    usual = answered.get(20, next(iter(answered.values())))
    recalls = {
        encoded.collection.classes[name]: float(usual[truth == name].double().mean())
        for name in torch.unique(truth).tolist()
    }
    if len(figures) > 1:
        remarks.append("The published tables mostly use k = 20; a k chosen on these figures is no fair one.")
    return _Found(figures, recalls, remarks, "photos")


def _multi_label(encoded: EncodedData, sides: TrainAndTest, seed: int) -> _Found:
    vectors, membership = vectors_of(encoded.features), torch.from_numpy(encoded.collection.membership())
    found = evaluate_multi_label(
        vectors[sides.train], membership[sides.train], vectors[sides.test], membership[sides.test], seed=seed
    )
    remarks, classes = [], encoded.collection.classes
    names = [name for name, judged in zip(classes, found.judged.tolist(), strict=True) if judged]
    if len(names) < len(classes):
        remarks.append(
            f"{len(classes) - len(names)} of {len(classes)} classes left out: no photo with it, or none without it, to "
            "learn from."
        )
    empty = int(found.average_precisions.isnan().sum())
    if empty:
        remarks.append(
            f"{empty} classes are in no test photo; mAP is the mean over the other {len(names) - empty}."
        )
    figures = [_Figure(metric, drawn.interval, resampled=drawn) for metric, drawn in found.resampled.items()]
    return _Found(figures, {}, remarks, "photos")


_PROTOCOLS: dict[str, Callable[[EncodedData, TrainAndTest, int], _Found]] = {
    "low-shot": _low_shot,
    "knn": _knn,
    "multi-label": _multi_label,
}
