"""What a few labelled photos alone say about the answers to come: `Trust`, and the accuracy to expect.

Every support photo is scored by the others (the photos of its group left out with it). From these scores follow a
temperature, the threshold of "none of these" at a stated rate of false alarms, label sets with a stated coverage, and
the accuracy with its interval. What the support is too small for is said in words, never guessed silently.

Temperature: the likelihood of the left-out scores, with a prior around

    T0 = (deviation of the scores of other classes) / n^(1/3)    for n photos a class,

a rule that held within a factor of 1.4 over six data sets (`benchmarks/calibration.py`) and that needs no second photo
of a class, so it serves at one shot. A left-out photo is compared with n - 1 of its class, so the fitted temperature is
corrected by ((n - 1) / n)^(1/3).

Several labels a photo: one sigmoid for all classes (Platt 1999, with his smoothed targets) in place of the softmax.
Letters: S supports, K classes, Q queries, n left-out scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.evaluation.calibration import conformal_rank
from fewsight.evaluation.intervals import Interval, group_bootstrap, proportion_interval
from fewsight.heads.head import Head, Support

__all__ = ["ExpectedAccuracy", "Threshold", "Trust", "expected_accuracy", "fit_trust", "left_out_scores"]

PRIOR_DEVIATION = 0.3  # of log T around the rule
TWO_CLASSES = 0.09  # T0 in units of (own score - other score), where two classes give no deviation of others


def left_out_scores(head: Head, support: Support, groups: Sequence[object] | None = None) -> Tensor:
    """Scores of every support photo under the head without that photo, or without its whole group.

    Args:
        head: any head.
        support: S photos.
        groups: `S` names (folder, burst, ...); photos of one group never stand on both sides.

    Returns:
        `[S, K]`; -inf for a class that has no photo outside.

    Raises:
        InvalidInput: there is not one group name a photo.
    """
    count, ways = support.membership.shape
    if groups is None:
        return head.leave_one_out(support)
    if len(groups) != count:
        raise InvalidInput(f"groups has {len(groups)} names for {count} support photos.")
    if len(set(groups)) == count:
        return head.leave_one_out(support)
    scores = torch.full((count, ways), -torch.inf, dtype=torch.float64)
    for rows in _rows_of_groups(groups):
        outside = torch.ones(count, dtype=torch.bool)
        outside[rows] = False
        kept = support.membership[outside].any(0)
        if not kept.any():
            continue
        conditioned = head.condition(support.rows(outside.nonzero()[:, 0]))
        part = conditioned.scores(support.features.rows(rows)).to(scores.dtype)
        scores[rows[:, None], kept.nonzero()[:, 0]] = part
    return scores


def _rows_of_groups(groups: Sequence[object]) -> list[Tensor]:
    rows: dict[object, list[int]] = {}
    for row, name in enumerate(groups):
        rows.setdefault(name, []).append(row)
    return [torch.tensor(members) for members in rows.values()]


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


def expected_accuracy(
    scores: Tensor, membership: Tensor, groups: Sequence[object] | None = None
) -> ExpectedAccuracy:
    """Accuracy to expect, from left-out scores.

    A photo counts when a class of its own has a photo outside; it is right when its best class is one of its own.
    Pessimistic, since each photo is judged by one photo a class less than a query will be.

    Args:
        scores: `[S, K]`, from `left_out_scores`.
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
class Trust:
    """What a support says about scores and novelty.

    Attributes:
        temperature: scores are divided by it; with several labels a photo, before the sigmoid.
        offset: score at which a label is as likely as not (several labels a photo), else 0.
        several: whether a photo can have several labels.
        left_out_novelty: ascending `[n]`, float64.
        left_out_misfit: ascending `[n]`, one minus the probability of the true label, float64.
        notes: what could not be estimated, in words.
    """

    temperature: float
    offset: float
    several: bool
    left_out_novelty: Tensor
    left_out_misfit: Tensor
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
        n = len(self.left_out_novelty)
        rank = conformal_rank(n, rate)
        if rank is None:
            return Threshold(
                math.inf, _too_few(n, rate, f"A false-alarm rate of {rate:.3g}", "nothing is rejected")
            )
        value = self.left_out_novelty[rank - 1].item()
        return Threshold(
            value,
            f"At most {100 * rate:.3g} % of photos that belong are rejected, judged by {n} support photos.",
        )

    def misfit(self, coverage: float) -> Threshold:
        """The largest one-minus-probability that a label in the set may have.

        Args:
            coverage: share of sets that hold the true label, in (0, 1).

        Raises:
            InvalidInput: the coverage is out of range.
        """
        _check_share(coverage, "coverage")
        n, alpha = len(self.left_out_misfit), 1 - coverage
        rank = conformal_rank(n, alpha)
        if rank is None:
            return Threshold(
                math.inf, _too_few(n, alpha, f"A coverage of {coverage:.3g}", "every set is full")
            )
        return Threshold(
            self.left_out_misfit[rank - 1].item(),
            f"About {100 * coverage:.3g} % of the sets hold the true label, judged by {n} support photos.",
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `tensors` holds the rest."""
        return {
            "temperature": self.temperature,
            "offset": self.offset,
            "several": self.several,
            "notes": list(self.notes),
        }

    def tensors(self) -> dict[str, Tensor]:
        """The left-out scores, for a model folder."""
        return {"left_out_novelty": self.left_out_novelty, "left_out_misfit": self.left_out_misfit}

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
                tuple(str(note) for note in values["notes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"the calibration is damaged: {error}.") from error
        if not 0 < trust.temperature < math.inf:
            raise InvalidInput(f"temperature is {trust.temperature}; expected a positive finite number.")
        return trust


def _too_few(n: int, alpha: float, what: str, so: str) -> str:
    least = f"; the support allows {1 / (n + 1):.3g}" if n else ""
    needed = math.ceil(1 / alpha - 1e-9) - 1
    return (
        f"{what} needs {needed} support photos whose class has another one, and there are {n}{least}: {so}. "
        "Give more photos a class."
    )


def fit_trust(
    scores: Tensor, novelty: Tensor, membership: Tensor, own: Tensor, *, several: bool = False
) -> Trust:
    """Fit temperature and thresholds to left-out scores.

    Args:
        scores: `[S, K]` of the head, from `left_out_scores`.
        novelty: `[S]`, left out in the same way; larger = less like anything.
        membership: bool `[S, K]`.
        own: scores `[S, K]` of the supports under the head that has seen them; used only where two classes leave
            nothing else to read a scale from.
        several: whether a photo can have several labels.
    """
    scores, own = scores.double(), own.double()
    true = scores.masked_fill(~membership, -torch.inf).amax(1)
    judged = torch.isfinite(true)
    n = int(judged.sum())
    notes = (
        []
        if n
        else [
            "Scores are calibrated by a rule of thumb: no class has two photos. "
            "'None of these' and label sets need a second photo a class."
        ]
    )
    if several:
        temperature, offset = _fit_sigmoid(scores, membership, own)
    else:
        temperature, offset = (
            _fit_temperature(scores[judged], membership[judged], scores, membership, own),
            0.0,
        )
    trust = Trust(temperature, offset, several, torch.empty(0), torch.empty(0), tuple(notes))
    misfit = 1 - trust.probabilities(scores[judged]).masked_fill(~membership[judged], 2).amin(1)
    return Trust(
        temperature,
        offset,
        several,
        novelty.double()[judged].sort().values,
        misfit.double().sort().values,
        tuple(notes),
    )


def _fit_temperature(
    judged: Tensor, own_class: Tensor, scores: Tensor, membership: Tensor, own: Tensor
) -> float:
    shots = membership.sum(0).double()
    if scores.shape[1] == 1:
        return 1.0
    n = float((shots.square().sum() / shots.sum()).item())  # photos in the class of a photo, on average
    start = _scale_of_scores(scores, membership, own) / n ** (1 / 3)
    if not len(judged):
        return start
    correction = ((n - 1) / n) ** (1 / 3)  # left out, a photo meets n - 1 of its class
    margins = _label_margins(judged, own_class)
    return correction * _penalised_temperature(margins, start / correction)


def _scale_of_scores(scores: Tensor, membership: Tensor, own: Tensor) -> float:
    """Deviation of the scores of other classes; with two classes a share of the gap to the own one."""
    others = scores[~membership]
    others = others[torch.isfinite(others)]
    deviation = others.std().item() if len(others) > 2 and scores.shape[1] > 2 else 0.0
    if deviation > 1e-6 * (1 + own.abs().max().item()):
        return deviation
    gap = (own[membership].mean() - others.mean()).item() if len(others) else 0.0
    return max(TWO_CLASSES * gap, 1e-3)


def _label_margins(scores: Tensor, membership: Tensor) -> Tensor:
    """l_k - l_y, `[n, K]`, y being the best of the own classes."""
    return scores - scores.masked_fill(~membership, -torch.inf).amax(1, keepdim=True)


def _penalised_temperature(margins: Tensor, start: float) -> float:
    """argmin over T of mean lse(margins / T) + (log T - log start)^2 / (2 deviation^2 n), by golden section."""

    def loss(log_ratio: float) -> float:
        likelihood = torch.logsumexp(margins / (start * math.exp(log_ratio)), dim=1).mean().item()
        return likelihood + log_ratio**2 / (2 * PRIOR_DEVIATION**2 * len(margins))

    low, high, golden = -4.0, 4.0, (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    while high - low > 1e-6:
        if loss_left <= loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - golden * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + golden * (high - low)
            loss_right = loss(right)
    return start * math.exp((low + high) / 2)


def _fit_sigmoid(scores: Tensor, membership: Tensor, own: Tensor) -> tuple[float, float]:
    """Temperature and offset of p = sigmoid((score - offset) / temperature) over all pairs of photo and class."""
    finite = torch.isfinite(scores)
    values, targets = scores[finite], membership[finite]
    scale = _scale_of_scores(scores, membership, own)
    positives, negatives = int(targets.sum()), int((~targets).sum())
    if not positives or not negatives:
        middle = (values.mean().item() if len(values) else own.mean().item()) + scale
        return scale, middle
    smooth = torch.where(targets, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    middle = values.mean()
    inputs = (values - middle) / scale  # so that Newton steps are well scaled
    slope, shift = _newton_sigmoid(inputs, smooth)
    if slope <= 0.05:  # scores that say nothing, or the wrong thing: nearly flat
        slope = 0.05
        shift = math.log(positives / negatives)
    return scale / slope, middle.item() - scale * shift / slope


def _newton_sigmoid(inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Slope a and shift b of sigmoid(a x + b) by damped Newton steps on the cross-entropy."""
    design = torch.stack([inputs, torch.ones_like(inputs)], dim=1)
    weights = torch.zeros(2, dtype=inputs.dtype)

    def loss(candidate: Tensor) -> float:
        logits = design @ candidate
        return (torch.nn.functional.softplus(logits) - targets * logits).mean().item()

    current = loss(weights)
    for _ in range(100):
        probability = torch.sigmoid(design @ weights)
        gradient = design.T @ (probability - targets) / len(targets)
        curvature = (design.T * (probability * (1 - probability))) @ design / len(targets)
        step = torch.linalg.solve(curvature + 1e-9 * torch.eye(2, dtype=inputs.dtype), gradient)
        size = 1.0
        while size > 1e-8 and loss(weights - size * step) > current:
            size /= 2
        weights, previous = weights - size * step, current
        current = loss(weights)
        if previous - current < 1e-12:
            break
    return weights[0].item(), weights[1].item()


def _check_share(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise InvalidInput(f"{name} is {value}; expected a share in (0, 1), such as 0.05.")
