"""Photos with several labels: one-vs-rest logistic regression on frozen features, mean average precision and F1.

Average precision in the conventions of `evaluation.multilabel`, which differ by points: `average` (scikit-learn;
COCO and Visual Genome tables), `11point` (PASCAL VOC 2007) and `area` (VOC from 2010 on). CF1 and OF1 as in ML-GCN
(Chen et al., CVPR 2019), at probability 0.5 and for the three highest labels of each photo.
Letters: N photos to learn from, M to be judged, K classes, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy
import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Interval
from fewsight.evaluation.multilabel import average_precision, precision_recall_f1
from fewsight.evaluation.resampled import Resampled
from fewsight.heads.logistic import processed, solve
from fewsight.seeding import numpy_generator
from fewsight.shapes import check_shapes

__all__ = ["MultiLabelResult", "evaluate_multi_label", "multi_label_figures", "one_vs_rest"]

MODES: tuple[Literal["average", "11point", "area"], ...] = ("average", "11point", "area")
TOP = 3


@dataclass(frozen=True)
class MultiLabelResult:
    """What came of a test set.

    Attributes:
        judged: bool [K], classes with positives and negatives to learn from; the others have no score.
        average_precisions: of each judged class, `average` convention, [judged classes]; NaN without a positive.
        resampled: name of a measure -> its value, and that of each draw of the test photos; the draws are a function
            of the seed and the number of photos.
    """

    judged: Tensor
    average_precisions: Tensor
    resampled: dict[str, Resampled]

    @property
    def figures(self) -> dict[str, Interval]:
        """Name of a measure -> value with its 95 % interval (bootstrap over the test photos)."""
        return {name: found.interval for name, found in self.resampled.items()}


def one_vs_rest(train: Tensor, membership: Tensor, test: Tensor, *, penalty: float = 0.1) -> Tensor:
    """Probabilities `[M, K]` that each test photo holds each class.

    One logistic regression with intercept a class, on features at unit length.

    Args:
        train, test: features `[N, D]`, `[M, D]`.
        membership: bool `[N, K]`; each class needs a photo with it and one without.
        penalty: L2 penalty on the sum of losses, positive.

    Raises:
        InvalidInput: shapes disagree, or a class has no positive or no negative.
    """
    check_shapes(train=(train, "N D"), membership=(membership, "N K"), test=(test, "M D"))
    counts = membership.sum(0)
    if ((counts == 0) | (counts == len(train))).any():
        raise InvalidInput("a class is in none or in all of the photos to learn from; leave it out.")
    rows = processed(train, center_rows=False, normalize=True)
    weights, intercept = solve(rows, membership.double(), penalty, several=True, fit_intercept=True)
    queries = processed(test, center_rows=False, normalize=True)
    return torch.sigmoid(queries @ weights.T + intercept).to(test.dtype)


def multi_label_figures(scores: Tensor, targets: Tensor) -> dict[str, float]:
    """mAP in three conventions, CF1 and OF1 at 0.5 and for the three highest.

    Args:
        scores: probabilities `[M, K]`.
        targets: bool `[M, K]`.
    """
    found = {
        f"mAP ({mode})": float(average_precision(scores, targets, mode=mode).nanmean()) for mode in MODES
    }
    top = min(TOP, scores.shape[1])
    for words, measured in (
        ("at probability 0.5", precision_recall_f1(scores, targets)),
        (f"of the {top} highest", precision_recall_f1(scores, targets, top=top)),
    ):
        found |= {f"{name} {words}": measured[name] for name in ("CF1", "OF1")}
    return found


def evaluate_multi_label(
    train: Tensor,
    train_membership: Tensor,
    test: Tensor,
    test_membership: Tensor,
    *,
    penalty: float = 0.1,
    resamples: int = 100,
    seed: int = 0,
) -> MultiLabelResult:
    """Fit on `train`, judge on `test`.

    Args:
        train, test: features `[N, D]`, `[M, D]`.
        train_membership, test_membership: bool `[N, K]`, `[M, K]`.
        penalty: as in `one_vs_rest`.
        resamples: of the test photos, for the intervals.

    Raises:
        InvalidInput: shapes disagree, or no class can be judged.
    """
    check_shapes(
        train=(train, "N D"), train_membership=(train_membership, "N K"),
        test=(test, "M D"), test_membership=(test_membership, "M K"),
    )  # fmt: skip
    counts = train_membership.sum(0)
    judged = (counts > 0) & (counts < len(train))
    targets = test_membership[:, judged]
    if not targets.any():
        raise InvalidInput(
            "no class has photos with it and without it to learn from, and one with it to be judged; give more photos."
        )
    scores = one_vs_rest(train, train_membership[:, judged], test, penalty=penalty)
    values = multi_label_figures(scores, targets)
    generator = numpy_generator(seed, "multi-label resamples")
    again: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(resamples):
        rows = torch.from_numpy(generator.integers(0, len(test), len(test)))
        for name, value in multi_label_figures(scores[rows], targets[rows]).items():
            again[name].append(value)
    resampled = {
        name: Resampled(value, numpy.array(again[name]), len(test)) for name, value in values.items()
    }
    return MultiLabelResult(judged, average_precision(scores, targets), resampled)
