"""Before and after training: the same low-shot task, on photos that the training did not see, and one sentence.

Both models learn each class from the same photos (prototypes) and answer for the same others; each photo is compared
with itself. Nothing here trains or chooses: features and labels in, a verdict out.

    better, worse         the interval of the difference leaves out zero
    no difference shown   it does not
    not judged            so few photos that even a large gain could not be shown

Letters: N photos, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Interval, paired_interval
from fewsight.heads.head import membership_from_labels
from fewsight.heads.prototypes import Prototypes
from fewsight.heads.vectors import check_labels, real
from fewsight.protocols.low_shot import low_shot_rows
from fewsight.shapes import check_shapes

__all__ = ["Outcome", "Verdict", "compare_answers", "enough_photos", "judge_features", "right_answers"]

Outcome = Literal["better", "worse", "no difference shown", "not judged"]

DETECTABLE = 0.2  # a verdict needs enough photos to show a gain of 20 points


@dataclass(frozen=True)
class Verdict:
    """What a training did to a model.

    Attributes:
        outcome: of the new model against the old one.
        sentence: the same in words, with the figures.
        before, after: share of right answers, without an interval of their own where nothing was judged.
        difference: after minus before, paired over the photos (or groups).
        enough: photos (or groups) that would be enough for a verdict.
    """

    outcome: Outcome
    sentence: str
    before: Interval
    after: Interval
    difference: Interval
    enough: int

    @property
    def improved(self) -> bool:
        """Whether the new model was shown to be better."""
        return self.outcome == "better"

    def as_values(self) -> dict[str, Any]:
        """Plain values for JSON; None in place of NaN."""
        values: dict[str, Any] = {
            "outcome": self.outcome,
            "sentence": self.sentence,
            "photos": self.before.n,
            "enough": self.enough,
        }
        for name in ("before", "after", "difference"):
            held: Interval = getattr(self, name)
            values[name] = {
                part: None if math.isnan(number) else number
                for part, number in (("mean", held.mean), ("low", held.low), ("high", held.high))
            }
        return values


def judge_features(
    before: Tensor,
    after: Tensor,
    labels: Tensor,
    *,
    learnt: Tensor | None = None,
    groups: Sequence[object] | None = None,
    shot: int = 5,
    draws: int = 10,
    names: tuple[str, str] = ("the old model", "the new model"),
    detectable: float = DETECTABLE,
    seed: int = 0,
) -> Verdict:
    """Judge the features of two models on one low-shot task.

    Args:
        before, after: features of the same photos, `[N, D]` and `[N, E]`.
        labels: class ids, integers `[N]`.
        learnt: bool `[N]`: the classes are learnt from these (the training may have seen them), the other photos are
            judged. None: no photo was seen by the training; `shot` photos of each class are drawn `draws` times, and
            each photo is judged in the draws that left it out.
        groups: a name for each photo (folder, burst); photos of a group are never learnt from and judged at once,
            and count as one for the interval.
        shot, draws: of the task without `learnt`; classes with one photo are left out, and no more photos of a class
            are drawn than leave one to be judged.
        names: of the two models, for the sentence.
        detectable: not judged where even this gain, all in one direction, could not be shown.
        seed: of the draws.

    Raises:
        InvalidInput: shapes disagree, labels are not integers, or a number is out of range.

    >>> features = torch.eye(2).repeat(40, 1)
    >>> judge_features(features.flip(0) * 0 + 1, features, torch.tensor([0, 1] * 40), shot=1).outcome
    'better'
    """
    check_shapes(before=(before, "N D"), after=(after, "N E"), labels=(labels, "N"))
    check_labels(labels, before)
    if shot < 1 or draws < 1:
        raise InvalidInput(f"shot is {shot} and draws {draws}; expected at least 1.")
    if groups is not None and len(groups) != len(labels):
        raise InvalidInput(f"groups has {len(groups)} names for {len(labels)} photos.")
    kinds = _group_numbers(groups, len(labels))
    masks = _drawn(labels, shot, draws, seed) if learnt is None else [_as_mask(learnt, len(labels))]
    sums, asked = numpy.zeros((2, len(labels))), numpy.zeros(len(labels))
    for mask in masks:
        judged = ~mask & ~numpy.isin(kinds, kinds[mask]) & _known(labels, mask)
        for model, features in enumerate((before, after)):
            sums[model, judged] += right_answers(features, labels, mask, judged)
        asked += judged
    there = asked > 0
    rates = sums[:, there] / asked[there]
    held = None if groups is None else kinds[there].tolist()
    return compare_answers(rates[0], rates[1], groups=held, names=names, detectable=detectable)


def right_answers(
    features: Tensor, labels: Tensor, learnt: NDArray[numpy.bool_], judged: NDArray[numpy.bool_]
) -> NDArray[numpy.float64]:
    """Whether each judged photo is nearest to the prototype of its class: 1 or 0, in order.

    Args:
        features: `[N, D]`.
        labels: `[N]`.
        learnt, judged: bool `[N]`; every class of a judged photo has a learnt one.
    """
    if not judged.any():
        return numpy.zeros(0)
    vectors = real(features, "features")
    supports, queries = torch.from_numpy(learnt), torch.from_numpy(judged)
    head = Prototypes()
    prepared = head.prepare(vectors[supports], membership_from_labels(labels[supports]))
    answers = torch.unique(labels[supports])[head.compare(vectors[queries], prepared).argmax(1)]
    return (answers == labels[queries]).double().numpy()


def compare_answers(
    before: ArrayLike,
    after: ArrayLike,
    *,
    groups: Sequence[object] | None = None,
    names: tuple[str, str] = ("the old model", "the new model"),
    detectable: float = DETECTABLE,
) -> Verdict:
    """The verdict on two models from what each answered on the same photos.

    Args:
        before, after: right (1) or wrong (0) for each photo, or shares over several draws, `[N]` in [0, 1].
        groups: a name for each photo; photos of a group count as one.
        names: of the two models, for the sentence.
        detectable: not judged where even this gain, all in one direction, could not be shown.

    Raises:
        InvalidInput: lengths differ, a value is outside [0, 1], or a number is out of range.

    >>> compare_answers([0] * 30 + [1] * 30, [0] * 15 + [1] * 45).sentence[:61]
    'Better: the new model is right on 75.0 % of 60 photos that th'
    """
    old, new = (numpy.asarray(values, dtype=float) for values in (before, after))
    if old.shape != new.shape or old.ndim != 1:
        raise InvalidInput(
            f"before has shape {list(old.shape)} and after {list(new.shape)}; expected one value a photo."
        )
    for name, values in (("before", old), ("after", new)):
        if not ((values >= 0) & (values <= 1)).all():
            raise InvalidInput(f"{name} holds values outside [0, 1]; expected right (1) or wrong (0).")
    enough = enough_photos(detectable)
    difference = paired_interval(new - old, groups)
    shares = [_share(values) for values in (old, new)]
    if difference.n < enough:
        difference = Interval(difference.mean, math.nan, math.nan, difference.n)
        sentence = _not_judged(len(old), difference.n, groups is not None, enough, detectable)
        return Verdict("not judged", sentence, shares[0], shares[1], difference, enough)
    outcome: Outcome = "no difference shown"
    if difference.low > 0 or difference.high < 0:
        outcome = "better" if difference.low > 0 else "worse"
    sentence = _sentence(outcome, shares, difference, names, groups is not None)
    return Verdict(outcome, sentence, shares[0], shares[1], difference, enough)


def enough_photos(detectable: float = DETECTABLE) -> int:
    """The fewest photos with which a gain of `detectable` that has no loss beside it is shown.

    >>> enough_photos(0.2), enough_photos(0.1)
    (30, 60)
    """
    if not 0 < detectable <= 1:
        raise InvalidInput(f"detectable is {detectable}; expected a share in (0, 1].")
    count = 2
    while True:
        gained = math.floor(detectable * count + 1e-9)
        if paired_interval([1.0] * gained + [0.0] * (count - gained)).low > 0:
            return count
        count += 1


def _share(values: NDArray[numpy.float64]) -> Interval:
    mean = float(values.mean()) if len(values) else math.nan
    return Interval(mean, math.nan, math.nan, len(values))


def _group_numbers(groups: Sequence[object] | None, count: int) -> NDArray[numpy.int64]:
    names = list(range(count)) if groups is None else list(groups)
    place = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return numpy.array([place[name] for name in names], dtype=numpy.int64)


def _as_mask(learnt: Tensor, count: int) -> NDArray[numpy.bool_]:
    if tuple(learnt.shape) != (count,) or learnt.dtype != torch.bool:
        raise InvalidInput(f"learnt is {learnt.dtype} {list(learnt.shape)}; expected bool [{count}].")
    return learnt.numpy()


def _drawn(labels: Tensor, shot: int, draws: int, seed: int) -> list[NDArray[numpy.bool_]]:
    """Masks of the photos to learn from, one for each draw; classes with a single photo have none."""
    ids = labels.numpy().astype(numpy.int64)
    masks = [numpy.zeros(len(ids), dtype=bool) for _ in range(draws)]
    for name in numpy.unique(ids).tolist():
        rows = numpy.flatnonzero(ids == name)
        if len(rows) < 2:
            continue
        taken = min(shot, len(rows) - 1)
        for draw, mask in enumerate(masks):
            chosen = low_shot_rows(ids[rows], draw, per_class=taken, largest=taken, draws=draws, seed=seed)
            mask[rows[chosen]] = True
    return masks


def _known(labels: Tensor, mask: NDArray[numpy.bool_]) -> NDArray[numpy.bool_]:
    """Photos whose class has a photo to learn from."""
    ids = labels.numpy()
    return numpy.isin(ids, ids[mask])


def _sentence(
    outcome: Outcome, shares: list[Interval], difference: Interval, names: tuple[str, str], grouped: bool
) -> str:
    units = f" in {difference.n} groups" if grouped else ""
    low, high = 100 * difference.low, 100 * difference.high
    return (
        f"{outcome.capitalize()}: {names[1]} is right on {100 * shares[1].mean:.1f} % of {shares[0].n} photos{units} "
        f"that the training did not see, {names[0]} on {100 * shares[0].mean:.1f} %: "
        f"{100 * difference.mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}, paired)."
    )


def _not_judged(photos: int, units: int, grouped: bool, enough: int, detectable: float) -> str:
    there = f"{units} {'group' if grouped else 'photo'}{'' if units == 1 else 's'}"
    there = there if units else "no photos"
    return (
        f"Not judged: {there} that the training did not see cannot show even a gain of {100 * detectable:.0f} points; "
        f"{enough} {'groups' if grouped else 'photos'} would be enough."
    )
