"""What faces say and reports show: `Prediction`, `Predictions`, `Explanation`. Plain values with paths and names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["STATUSES", "Explanation", "MatchedPatch", "Prediction", "Predictions", "SupportMatch"]

Status = Literal["ok", "rejected", "suspicious", "unreadable", "refused", "duplicate"]
STATUSES: tuple[Status, ...] = ("ok", "rejected", "suspicious", "unreadable", "refused", "duplicate")


@dataclass(frozen=True)
class SupportMatch:
    """One support photo that speaks for an answer: its file, class and similarity (larger = more alike)."""

    file: str
    label: str
    similarity: float


@dataclass(frozen=True)
class MatchedPatch:
    """A query patch and the support patch that answered for it.

    `query` and `support` are centres as (x, y) in [0, 1] of the picture as the backbone saw it, `file` is the
    support photo, `weight` the attention in [0, 1].
    """

    query: tuple[float, float]
    file: str
    support: tuple[float, float]
    weight: float


@dataclass(frozen=True)
class Explanation:
    """Why a photo got its label: the nearest support photos, and matched patches where the head has them.

    Attributes:
        label, runner_up: the class spoken for, and its strongest rival ("" where there is none).
        nearest, nearest_of_runner_up: support photos of each.
        patches, patches_of_runner_up: places that spoke most for each, the strongest first, apart from one another.
        evidence: the heat map: for each place of the photo, row by row, how much better the label explains it than
            the runner-up, in [-1, 1] (1 = the strongest place of the photo); empty where the head has no places.
    """

    label: str
    runner_up: str
    nearest: tuple[SupportMatch, ...]
    nearest_of_runner_up: tuple[SupportMatch, ...] = ()
    patches: tuple[MatchedPatch, ...] = ()
    patches_of_runner_up: tuple[MatchedPatch, ...] = ()
    evidence: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Prediction:
    """One row of `predictions.csv`.

    Attributes:
        file: relative to the folder given.
        label, score: the best class and its calibrated probability in [0, 1]; None where there is no answer.
        runner_up, runner_up_score: the second class.
        novelty: larger = less like anything in the support.
        status, note: `ok` or what happened, in a word and in words.
        probabilities: by class name.
        labels: every label of a photo with several.
        label_set: the conformal set, where a coverage was asked for.
        nearest: support photos most like this one.
        truth: the true labels where known, else empty.
        reasons: the full explanation, where one was made.
    """

    file: str
    status: Status
    note: str = ""
    label: str | None = None
    score: float | None = None
    runner_up: str | None = None
    runner_up_score: float | None = None
    novelty: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    label_set: tuple[str, ...] | None = None
    nearest: tuple[SupportMatch, ...] = ()
    truth: tuple[str, ...] = ()
    reasons: Explanation | None = None

    @property
    def margin(self) -> float | None:
        """Score minus the runner-up's."""
        if self.score is None:
            return None
        return self.score - (self.runner_up_score or 0.0)

    @property
    def answered(self) -> bool:
        """Whether the row carries a label."""
        return self.status in ("ok", "suspicious") and self.label is not None


@dataclass(frozen=True)
class Predictions(Sequence[Prediction]):
    """Rows in input order, with the class names."""

    rows: tuple[Prediction, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.rows)

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        return self.rows[index]

    def counts(self) -> dict[str, int]:
        """How many rows have each status."""
        return {status: sum(row.status == status for row in self.rows) for status in STATUSES}
