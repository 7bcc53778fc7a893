"""Counts that a page shows: photos per class, confusions, who stayed without an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fewsight.predictions import Prediction
from fewsight.report.doubt import CERTAINTIES, certainty

__all__ = [
    "NONE_OF_THESE",
    "ClassCount",
    "Confusion",
    "HasStatus",
    "MixUp",
    "class_counts",
    "confusion",
    "correct",
    "rightly_rejected",
    "said_labels",
    "troubles",
]

NONE_OF_THESE = "none of these"


@dataclass(frozen=True)
class ClassCount:
    """What was found of one class: its labelled photos, and the answers by certainty."""

    name: str
    index: int
    support: int
    found: int
    sure: int
    fairly_sure: int
    in_doubt: int


def class_counts(
    rows: Sequence[Prediction], classes: Sequence[str], support_labels: Sequence[Sequence[str]]
) -> list[ClassCount]:
    """One `ClassCount` for each class, the most found first; a photo with several labels counts in each."""
    given = Counter(label for labels in support_labels for label in set(labels))
    found = Counter(
        (label, certainty(row)) for row in rows if row.answered for label in set(said_labels(row))
    )
    counts = []
    for index, name in enumerate(classes):
        in_doubt, fairly_sure, sure = (found[name, level] for level in CERTAINTIES)
        counts.append(
            ClassCount(name, index, given[name], in_doubt + fairly_sure + sure, sure, fairly_sure, in_doubt)
        )
    return sorted(counts, key=lambda count: -count.found)


def said_labels(row: Prediction) -> tuple[str, ...]:
    """Every label that the row carries: several, one, or none."""
    return row.labels or ((row.label,) if row.label is not None else ())


def correct(row: Prediction) -> bool | None:
    """Whether the label is one of the true ones; None where there is no answer or no truth.

    >>> correct(Prediction("a.jpg", "ok", label="heron", truth=("heron", "reed")))
    True
    """
    if not row.answered or not row.truth:
        return None
    return row.label in row.truth


def rightly_rejected(row: Prediction, classes: Sequence[str]) -> bool | None:
    """Whether a rejected photo is indeed of none of the classes; None where it is not rejected or has no truth."""
    if row.status != "rejected" or not row.truth:
        return None
    return not set(row.truth) & set(classes)


@dataclass(frozen=True)
class MixUp:
    """`count` photos of class `truth` were called `label`."""

    truth: str
    label: str
    count: int


@dataclass(frozen=True)
class Confusion:
    """Photos by true class (rows) and answer (columns), and the mix-ups from most to least frequent.

    The last column is "none of these" if any photo of known truth was rejected; true classes that are not in the
    support have rows after those that are.
    """

    truths: tuple[str, ...]
    answers: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    mix_ups: tuple[MixUp, ...]


def confusion(rows: Sequence[Prediction], classes: Sequence[str]) -> Confusion | None:
    """Count the rows with exactly one true label and an answer (or a rejection); None where there are none."""
    pairs = Counter(
        (row.truth[0], NONE_OF_THESE if row.status == "rejected" else str(row.label))
        for row in rows
        if len(row.truth) == 1 and (row.answered or row.status == "rejected")
    )
    if not pairs:
        return None
    seen_truths, seen_answers = {truth for truth, _ in pairs}, {answer for _, answer in pairs}
    known = set(classes)
    truths = [name for name in classes if name in seen_truths] + sorted(seen_truths - known)
    answers = [name for name in classes if name in seen_answers | seen_truths]
    answers += sorted(seen_answers - known - {NONE_OF_THESE})
    if NONE_OF_THESE in seen_answers:
        answers.append(NONE_OF_THESE)
    counts = tuple(tuple(pairs[truth, answer] for answer in answers) for truth in truths)
    # a photo of an unknown class called "none of these" is right, not mixed up
    wrong = [
        MixUp(truth, answer, count)
        for (truth, answer), count in pairs.items()
        if truth != answer and not (answer == NONE_OF_THESE and truth not in known)
    ]
    wrong.sort(key=lambda mix_up: (-mix_up.count, mix_up.truth, mix_up.label))
    return Confusion(tuple(truths), tuple(answers), counts, tuple(wrong))


class HasStatus(Protocol):
    """A row of any verb: its file, what became of it, in a word and in words."""

    @property
    def file(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def note(self) -> str: ...


def troubles(rows: Iterable[HasStatus], most: int) -> dict[str, tuple[list[HasStatus], int]]:
    """Rows that a person should know of, by status: the first `most` of them, and how many there are.

    These are the damaged, the unreadable, the refused, and those that are in the support already.
    """
    kept: dict[str, list[HasStatus]] = {
        status: [] for status in ("unreadable", "refused", "suspicious", "duplicate")
    }
    counts: Counter[str] = Counter()
    for row in rows:
        if row.status in kept:
            counts[row.status] += 1
            if counts[row.status] <= most:
                kept[row.status].append(row)
    return {status: (found, counts[status]) for status, found in kept.items() if found}
