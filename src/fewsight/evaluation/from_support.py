"""What a few labelled photos alone say about the answers to come: `Trust`, and the accuracy to expect.

Every support photo is scored by the others (`left_out`). From these scores follow a temperature (`scaling`), the
threshold of "none of these" at a stated rate of false alarms, label sets with a stated coverage, and the accuracy with
its interval. What the support is too small for is said in words, never guessed silently.
Letters: S supports, K classes, Q queries, n left-out scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.evaluation.calibration import conformal_rank
from fewsight.evaluation.intervals import Interval, group_bootstrap, proportion_interval
from fewsight.evaluation.left_out import balanced_scores, left_out_scores
from fewsight.evaluation.scaling import sigmoid_scale, softmax_temperature

__all__ = [
    "ExpectedAccuracy",
    "LabelThresholds",
    "Threshold",
    "Trust",
    "balanced_scores",
    "expected_accuracy",
    "fit_trust",
    "left_out_scores",
]


NAMED = 10  # classes in a sentence
NO_SECOND_PHOTO = (
    "Scores are calibrated by a rule of thumb: no class has two photos. "
    "'None of these' and label sets need a second photo a class."
)


@dataclass(frozen=True)
class ExpectedAccuracy:
    """How often the support photos are answered right by the others.

    Attributes:
        overall: with its interval; `n` = 0 means not judged.
        by_group: the same for each group, where groups were given.
        sentence: in words.
    """

    overall: Interval
    by_group: Mapping[str, Interval]
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        by_group = {name: _plain(interval) for name, interval in self.by_group.items()}
        return {"overall": _plain(self.overall), "by_group": by_group, "sentence": self.sentence}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ExpectedAccuracy:
        """The inverse of `as_dict`."""
        by_group = {str(name): _interval(ends) for name, ends in values["by_group"].items()}
        return cls(_interval(values["overall"]), by_group, str(values["sentence"]))


def _plain(interval: Interval) -> list[float | None]:
    ends = (interval.mean, interval.low, interval.high)
    return [*(None if math.isnan(end) else end for end in ends), interval.n]


def _interval(values: Sequence[float | None]) -> Interval:
    mean, low, high, n = (math.nan if value is None else value for value in values)
    return Interval(float(mean), float(low), float(high), int(n))


def expected_accuracy(
    scores: Tensor, membership: Tensor, groups: Sequence[object] | None = None
) -> ExpectedAccuracy:
    """Accuracy to expect, from left-out scores.

    A photo counts when a class of its own has a photo outside; it is right when its best class is one of its own.
    Pessimistic, since each photo is judged by one photo a class less than a query will be.

    Args:
        scores: `[S, K]`, from `balanced_scores`.
        membership: bool `[S, K]`.
        groups: `S` names; the interval is then over groups.
    """
    own = scores.masked_fill(~membership, -torch.inf).amax(1)
    judged = torch.isfinite(own)
    right = membership.gather(1, scores.argmax(1, keepdim=True))[:, 0][judged]
    count, left = int(judged.sum()), int((~judged).sum())
    by_group: dict[str, Interval] = {}
    if groups is None:
        overall = proportion_interval(int(right.sum()), count)
    else:
        kept = [str(name) for name, keep in zip(groups, judged.tolist(), strict=True) if keep]
        overall = group_bootstrap(right.double().numpy(), kept)
        for name in dict.fromkeys(kept):
            inside = [value for value, group in zip(right.tolist(), kept, strict=True) if group == name]
            by_group[name] = proportion_interval(sum(inside), len(inside))
    return ExpectedAccuracy(overall, by_group, _accuracy_sentence(overall, count, left))


def _accuracy_sentence(overall: Interval, count: int, left: int) -> str:
    if not count:
        return (
            "Accuracy not judged: no photo has another of its class to be compared with. "
            "Give at least two photos a class."
        )
    text = f"{count} support photos, each judged by the others: {overall.percent()} right."
    return text + (f" {left} not judged: the only photo of its class." if left else "")


@dataclass(frozen=True)
class Threshold:
    """A threshold with what it promises.

    Attributes:
        value: +inf where the support is too small.
        sentence: what is promised, in words.
    """

    value: float
    sentence: str


@dataclass(frozen=True)
class LabelThresholds:
    """A threshold for each class with what it promises.

    Attributes:
        value: float64 `[K]`; +inf where the support is too small.
        sentence: what is promised, in words, and which classes have a threshold of their own.
        own: columns of the classes that have a threshold from their own photos; the others share one.
    """

    value: Tensor
    sentence: str
    own: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trust:
    """What a support says about scores and novelty.

    Attributes:
        temperature: scores are divided by it; with several labels a photo, before the sigmoid.
        offset: score at which a label is as likely as not (several labels a photo), else 0.
        several: whether a photo can have several labels.
        left_out_novelty: ascending `[n]`, float64.
        left_out_misfit: `[n]`, one minus the probability of the true label (the least of several), float64.
        left_out_class: `[n]`, column of the label of each.
        classes: K.
        notes: what could not be estimated, in words.
    """

    temperature: float
    offset: float
    several: bool
    left_out_novelty: Tensor
    left_out_misfit: Tensor
    left_out_class: Tensor
    classes: int
    notes: tuple[str, ...] = ()

    def probabilities(self, scores: Tensor) -> Tensor:
        """`[Q, K]` in [0, 1]: softmax over classes, or one sigmoid a class where a photo can have several."""
        scaled = (scores - self.offset) / self.temperature
        return torch.sigmoid(scaled) if self.several else torch.softmax(scaled, dim=1)

    def rejection(self, rate: float) -> Threshold:
        """The novelty above which a photo is "none of these".

        Args:
            rate: at most this share of photos that do belong to a class is rejected, in (0, 1).

        Raises:
            InvalidInput: the rate is out of range.
        """
        _check_share(rate, "reject")
        n, value = len(self.left_out_novelty), _quantile(self.left_out_novelty, rate)
        if math.isinf(value):
            return Threshold(
                value,
                _too_few(
                    n,
                    rate,
                    f"A false-alarm rate of {100 * rate:.3g} %",
                    "nothing is rejected",
                    f"{100 / (n + 1):.3g} %",
                ),
            )
        return Threshold(
            value,
            f"About {100 * rate:.3g} % at most of the photos that belong are rejected, judged by {n} support photos.",
        )

    def misfit(self, coverage: float, names: Sequence[str] = ()) -> LabelThresholds:
        """The largest one-minus-probability that a label in the set may have.

        A class with twice the photos that the coverage needs has its own threshold. The others share one, from their
        own photos where these are enough together, else from those of all classes: large classes that are easy to
        tell would promise too much for small ones.

        Args:
            coverage: share of sets that hold the true label (all true labels of a photo with several), in (0, 1).
            names: of the K classes, so that the sentence says which share; without them it counts.

        Raises:
            InvalidInput: the coverage is out of range.
        """
        _check_share(coverage, "coverage")
        n, alpha = len(self.left_out_misfit), 1 - coverage
        value = torch.full((self.classes,), _quantile(self.left_out_misfit, alpha), dtype=torch.float64)
        if not n or torch.isinf(value).any():
            allowed = f"{100 * n / (n + 1):.3g} %"
            return LabelThresholds(
                value,
                _too_few(n, alpha, f"A coverage of {100 * coverage:.3g} %", "every set is full", allowed),
            )
        own = []
        for column in range(0 if self.several else self.classes):
            inside = self.left_out_misfit[self.left_out_class == column]
            if len(inside) >= 2 * _needed(alpha):
                value[column] = _quantile(inside, alpha)
                own.append(column)
        shared = [column for column in range(self.classes) if column not in set(own)]
        rest = self.left_out_misfit[torch.isin(self.left_out_class, torch.tensor(shared, dtype=torch.long))]
        apart = bool(own) and len(rest) >= _needed(alpha)
        if apart:
            value[shared] = _quantile(rest, alpha)
        sentence = self._coverage_sentence(coverage, own, shared, names, apart=apart)
        return LabelThresholds(value, sentence, tuple(own))

    def label_sets(self, probabilities: Tensor, coverage: float) -> Tensor:
        """Which labels can be meant, bool `[Q, K]`; the most probable one always is, which only adds to the coverage.

        Args:
            probabilities: `[Q, K]`, from `probabilities`.
            coverage: as in `misfit`.

        Raises:
            InvalidInput: the coverage is out of range.
        """
        return self.inside(probabilities, self.misfit(coverage))

    def inside(self, probabilities: Tensor, thresholds: LabelThresholds) -> Tensor:
        """`label_sets` by thresholds that are at hand."""
        best = probabilities == probabilities.amax(1, keepdim=True)
        return (1 - probabilities.double() <= thresholds.value) | best

    def _coverage_sentence(
        self, coverage: float, own: list[int], shared: list[int], names: Sequence[str], *, apart: bool
    ) -> str:
        labels = "all true labels" if self.several else "the true label"
        n = len(self.left_out_misfit)
        text = f"About {100 * coverage:.3g} % of the sets hold {labels}, judged by {n} support photos"
        if not own:
            return f"{text}, all classes together."
        text += f"; each by its own photos: {_classes(own, names)}"
        if not shared:
            return f"{text}."
        how = "together" if apart else "with all others"
        return f"{text}; {how} (too few photos): {_classes(shared, names)}."

    def promises(self, names: Sequence[str], coverages: Sequence[float] = (0.8, 0.9, 0.95)) -> dict[str, Any]:
        """What label sets of each coverage rest on, as plain values: classes by their own photos, and pooled ones."""
        told = {}
        for coverage in coverages:
            found = self.misfit(coverage, names)
            full = bool(torch.isinf(found.value).any())
            own = [names[column] for column in found.own]
            told[f"{coverage:g}"] = {
                "promised": not full,
                "own_threshold": own,
                "pooled": [] if full else [name for name in names if name not in set(own)],
                "sentence": found.sentence,
            }
        return told

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `tensors` holds the rest."""
        return {
            "temperature": self.temperature,
            "offset": self.offset,
            "several": self.several,
            "classes": self.classes,
            "notes": list(self.notes),
        }

    def tensors(self) -> dict[str, Tensor]:
        """The left-out scores, for a model folder."""
        return {
            "left_out_novelty": self.left_out_novelty,
            "left_out_misfit": self.left_out_misfit,
            "left_out_class": self.left_out_class,
        }

    @classmethod
    def from_parts(cls, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Trust:
        """The inverse of `as_dict` and `tensors`.

        Raises:
            InvalidInput: a value is missing or out of range.
        """
        try:
            trust = cls(
                float(values["temperature"]),
                float(values["offset"]),
                bool(values["several"]),
                tensors["left_out_novelty"],
                tensors["left_out_misfit"],
                tensors["left_out_class"],
                int(values["classes"]),
                tuple(str(note) for note in values["notes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"the calibration is damaged: {error}.") from error
        if not 0 < trust.temperature < math.inf:
            raise InvalidInput(f"temperature is {trust.temperature}; expected a positive finite number.")
        return trust


def _quantile(scores: Tensor, alpha: float) -> float:
    """The score that a new one exceeds with probability `alpha` at most; +inf where there are too few."""
    rank = conformal_rank(len(scores), alpha)
    return math.inf if rank is None else scores.sort().values[rank - 1].item()


def _needed(alpha: float) -> int:
    return math.ceil(1 / alpha - 1e-9) - 1


def _too_few(n: int, alpha: float, what: str, so: str, allowed: str) -> str:
    least = f"; the support allows {allowed}" if n else ""
    return (
        f"{what} needs {_needed(alpha)} support photos whose class has another one, and there are {n}{least}: {so}. "
        "Give more photos a class."
    )


def _classes(columns: Sequence[int], names: Sequence[str]) -> str:
    """The classes by name, the first ten of many; their number where there are no names."""
    if not names:
        return f"{len(columns)} {'class' if len(columns) == 1 else 'classes'}"
    shown = ", ".join(names[column] for column in columns[:NAMED])
    return shown + (f" and {len(columns) - NAMED} more" if len(columns) > NAMED else "")


def fit_trust(
    scores: Tensor,
    novelty: Tensor,
    membership: Tensor,
    own: Tensor,
    *,
    several: bool = False,
    exponent: float = 1 / 3,
) -> Trust:
    """Fit temperature and thresholds to left-out scores.

    Args:
        scores: `[S, K]` of the head, from `balanced_scores`.
        novelty: `[S]`, each photo alone left out; larger = less like anything.
        membership: bool `[S, K]`.
        own: scores `[S, K]` of the supports under the head that has seen them; used only where two classes leave
            nothing else to read a scale from.
        several: whether a photo can have several labels.
        exponent: how the head's temperature falls with the number of photos a class.
    """
    scores, own = scores.double(), own.double()
    true = scores.masked_fill(~membership, -torch.inf).amax(1)
    judged = torch.isfinite(true)
    n = int(judged.sum())
    notes = () if n else (NO_SECOND_PHOTO,)
    if several:
        temperature, offset = sigmoid_scale(scores, membership, own)
    else:
        temperature, offset = softmax_temperature(scores, membership, own, exponent), 0.0
    nothing, classes = torch.empty(0), scores.shape[1]
    trust = Trust(temperature, offset, several, nothing, nothing, nothing, classes, notes)
    shares = trust.probabilities(scores[judged])
    own_scored = membership[judged] & torch.isfinite(scores[judged])
    misfit = 1 - shares.masked_fill(~own_scored, 2).amin(1)
    return replace(
        trust,
        left_out_novelty=novelty.double()[judged].sort().values,
        left_out_misfit=misfit,
        left_out_class=membership[judged].long().argmax(1),
    )


def _check_share(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise InvalidInput(f"{name} is {value}; expected a share in (0, 1), such as 0.05.")
