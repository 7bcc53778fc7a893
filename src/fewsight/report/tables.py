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
    "ClassTally",
    "Confusion",
    "ConfusionTally",
    "HasStatus",
    "MixUp",
    "SetCount",
    "SetTally",
    "TroubleTally",
    "class_counts",
    "confusion",
    "correct",
    "rightly_rejected",
    "said_labels",
    "troubles",
]

NONE_OF_THESE = "none of these"
MOST_TROUBLES = 200  # rows of a list of unreadable photos


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


class ClassTally:
    """Answers by class and certainty; a photo with several labels counts in each."""

    def __init__(self) -> None:
        self._found: Counter[tuple[str, str]] = Counter()

    def add(self, row: Prediction) -> None:
        """The next row of the run."""
        if row.answered:
            level = certainty(row)
            self._found.update((label, level) for label in set(said_labels(row)))

    def counts(self, classes: Sequence[str], support_labels: Sequence[Sequence[str]]) -> list[ClassCount]:
        """One `ClassCount` for each class, the most found first."""
        given = Counter(label for labels in support_labels for label in set(labels))
        counts = []
        for index, name in enumerate(classes):
            in_doubt, fairly_sure, sure = (self._found[name, level] for level in CERTAINTIES)
            found = in_doubt + fairly_sure + sure
            counts.append(ClassCount(name, index, given[name], found, sure, fairly_sure, in_doubt))
        return sorted(counts, key=lambda count: -count.found)


def class_counts(
    rows: Iterable[Prediction], classes: Sequence[str], support_labels: Sequence[Sequence[str]]
) -> list[ClassCount]:
    """One `ClassCount` for each class, the most found first."""
    tally = ClassTally()
    for row in rows:
        tally.add(row)
    return tally.counts(classes, support_labels)


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


class ConfusionTally:
    """Pairs of truth and answer, of rows with exactly one true label and an answer or a rejection."""

    def __init__(self) -> None:
        self._pairs: Counter[tuple[str, str]] = Counter()

    def add(self, row: Prediction) -> None:
        """The next row of the run."""
        if len(row.truth) == 1 and (row.answered or row.status == "rejected"):
            answer = NONE_OF_THESE if row.status == "rejected" else str(row.label)
            self._pairs[row.truth[0], answer] += 1

    def table(self, classes: Sequence[str]) -> Confusion | None:
        """The table; None where there is no pair."""
        pairs = self._pairs
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


def confusion(rows: Iterable[Prediction], classes: Sequence[str]) -> Confusion | None:
    """Count the rows with exactly one true label and an answer (or a rejection); None where there are none."""
    tally = ConfusionTally()
    for row in rows:
        tally.add(row)
    return tally.table(classes)


@dataclass(frozen=True)
class SetCount:
    """Label sets of the photos whose one true class is `name`: how many hold it, and how large they are on average."""

    name: str
    photos: int
    held: int
    size: float


class SetTally:
    """Whether label sets hold the true class, by that class; photos with several true classes do not count."""

    def __init__(self) -> None:
        self._photos: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()

    def add(self, row: Prediction) -> None:
        """The next row of the run."""
        if row.label_set is not None and len(row.truth) == 1 and row.answered:
            name = row.truth[0]
            self._photos[name] += 1
            self._held[name] += name in row.label_set
            self._sizes[name] += len(row.label_set)

    def counts(self, classes: Sequence[str]) -> list[SetCount]:
        """One `SetCount` for each class of the support that is the truth of a photo, in their order."""
        return [
            SetCount(name, self._photos[name], self._held[name], self._sizes[name] / self._photos[name])
            for name in classes
            if self._photos[name]
        ]


class HasStatus(Protocol):
    """A row of any verb: its file, what became of it, in a word and in words."""

    @property
    def file(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def note(self) -> str: ...


class TroubleTally:
    """Rows that a person should know of, by status: the first `most` of them, and how many there are.

    These are the damaged, the unreadable, the refused, and those that are in the support already.
    """

    def __init__(self, most: int = MOST_TROUBLES) -> None:
        self._most = most
        self._kept: dict[str, list[HasStatus]] = {
            status: [] for status in ("unreadable", "refused", "suspicious", "duplicate")
        }
        self._counts: Counter[str] = Counter()

    def add(self, row: HasStatus) -> None:
        """The next row of the run."""
        if row.status in self._kept:
            self._counts[row.status] += 1
            if self._counts[row.status] <= self._most:
                self._kept[row.status].append(row)

    def found(self) -> dict[str, tuple[list[HasStatus], int]]:
        """By status; those without a row are left out."""
        return {status: (rows, self._counts[status]) for status, rows in self._kept.items() if rows}


def troubles(rows: Iterable[HasStatus], most: int = MOST_TROUBLES) -> dict[str, tuple[list[HasStatus], int]]:
    """What `TroubleTally` finds among all rows."""
    tally = TroubleTally(most)
    for row in rows:
        tally.add(row)
    return tally.found()
