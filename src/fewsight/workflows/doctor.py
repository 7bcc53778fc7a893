"""`fewsight doctor`: what is in a folder, what is wrong with it, how good answers will be, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fewsight.classifier import FewShotClassifier
from fewsight.data.inspection import Flagged, Inspection, Pair, inspect_photos
from fewsight.data.layouts import Reading, read_layout
from fewsight.errors import FewsightError
from fewsight.evaluation.from_support import ExpectedAccuracy
from fewsight.progress import quieted
from fewsight.workflows.labelled_photos import fit, read_labelled

__all__ = ["Diagnosis", "doctor"]

SHOWN = 5  # examples of each kind


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found.

    Attributes:
        inspection: the facts about the labelled photos.
        pile: how the photos to be judged were read, and how many there are; None without them.
        expected: accuracy to expect from the support alone; None where it could not be tried.
        problem: why it could not be tried.
        next_step: a command.
    """

    inspection: Inspection
    pile: str | None
    expected: ExpectedAccuracy | None
    problem: str
    next_step: str

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        overall = None if self.expected is None else self.expected.overall
        return {
            **asdict(self.inspection),
            "pile": self.pile,
            "expected_accuracy": None
            if overall is None or overall.n == 0
            else {"mean": overall.mean, "low": overall.low, "high": overall.high, "n": overall.n},
            "expected_sentence": self.problem if self.expected is None else self.expected.sentence,
            "next_step": self.next_step,
        }

    def sentences(self) -> Iterator[str]:
        """In words: what is there, what is wrong, how good it will be, what to do."""
        found = self.inspection
        yield f"Read as {found.description}."
        yield (
            f"{found.photos} photos: "
            + ", ".join(f"{count} {name}" for name, count in _most(found.classes))
            + "."
        )
        if found.imbalance >= 5:
            yield f"The largest class has {found.imbalance:.0f} times the photos of the smallest: give that one more."
        single = [name for name, count in found.classes.items() if count == 1]
        if single:
            yield f"One photo only: {_some(single)}. A second one lets fewsight judge itself on that class."
        yield from found.warnings
        yield from _flagged("cannot be used", found.unreadable)
        yield from _flagged("decode though they are damaged", found.suspicious)
        if found.tiny:
            yield (
                f"{len(found.tiny)} photos are tiny: "
                + _some([f"{f} ({w} x {h})" for f, w, h in found.tiny])
                + "."
            )
        yield from _pairs("stand twice in a class", found.duplicates)
        yield from _pairs("stand in two classes: decide for one", found.conflicts)
        yield from _pairs("stand in two splits: figures on the second would be too good", found.leaks)
        if found.shared_groups:
            yield f"Groups in several splits: {_some(found.shared_groups)}. Keep a group on one side."
        if self.pile is not None:
            yield f"To be judged: {self.pile}."
        yield from _pairs("also lie in the pile; there they get the status 'duplicate'", found.in_pile)
        yield self.problem if self.expected is None else f"How good it will be: {self.expected.sentence}"
        if self.expected is not None:
            for group, share in sorted(self.expected.by_group.items(), key=lambda item: item[1].mean)[:SHOWN]:
                yield f"  group {group}: {share.percent()} of {share.n}"
        yield f"Next: {self.next_step}"


def _most(classes: dict[str, int]) -> list[tuple[str, int]]:
    ordered = sorted(classes.items(), key=lambda item: -item[1])
    if len(ordered) <= 2 * SHOWN:
        return ordered
    return [
        *ordered[:SHOWN],
        (f"in {len(ordered) - 2 * SHOWN} other classes", sum(n for _, n in ordered[SHOWN:-SHOWN])),
        *ordered[-SHOWN:],
    ]


def _some(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _flagged(what: str, photos: Sequence[Flagged]) -> Iterator[str]:
    if photos:
        yield f"{len(photos)} photos {what}: {_some([f'{photo.file} ({photo.note})' for photo in photos])}."


def _pairs(what: str, pairs: Sequence[Pair]) -> Iterator[str]:
    if pairs:
        told = [f"{pair.first} {'=' if pair.exact else '~'} {pair.second}" for pair in pairs]
        yield f"{len(pairs)} pairs {what}: {_some(told)}."


def doctor(
    data: str | Path,
    queries: str | Path | None = None,
    *,
    backbone: str = "auto",
    head: str = "prototypes",
    image_size: int | None = None,
    workers: int | None = None,
    group_by: str | None = None,
    class_level: Literal["top", "leaf"] = "top",
    quiet: bool = False,
) -> Diagnosis:
    """Look at labelled photos before anything is run on them.

    Args:
        data: class folders or a CSV.
        queries: the photos to be judged, if they are at hand.
        backbone, head, image_size, group_by: for the accuracy to expect.

    Raises:
        InvalidInput: the folder fits no layout; the message shows what was found and an example.
    """
    data = Path(data)
    with quieted(quiet):
        reading = read_layout(data, class_level=class_level, skip_empty=True)
        pile = None if queries is None else read_layout(queries, labels="optional")
        found = inspect_photos(reading, pile, workers=workers)
        expected, problem = _expected(data, reading, backbone, head, image_size, group_by, class_level)
        told = None if pile is None else pile.description
        return Diagnosis(found, told, expected, problem, _next_step(data, queries, found))


def _expected(
    data: Path,
    reading: Reading,
    backbone: str,
    head: str,
    image_size: int | None,
    group_by: str | None,
    class_level: Literal["top", "leaf"],
) -> tuple[ExpectedAccuracy | None, str]:
    try:
        photos = read_labelled(
            data,
            root=[Path(reading.collection.root)],
            class_level=class_level,
            skip_empty=True,
            group_by=group_by,
        )
        classifier = FewShotClassifier(backbone, head, image_size=image_size)
        return fit(classifier, photos, group_by).expected_, ""
    except FewsightError as error:
        return None, f"How good it will be could not be tried: {error}"


def _next_step(data: Path, queries: str | Path | None, found: Inspection) -> str:
    if found.conflicts:
        return "take each photo that stands in two classes out of one of them, then run doctor again"
    if not found.classes:
        return "put a few photos of each class into a folder named after the class"
    if len(found.classes) == 1 or min(found.classes.values()) < 2:
        return f"give every class at least two photos (five are better), then: fewsight doctor {data}"
    return f"fewsight predict {data} {queries or 'PILE'} --out run --reject 0.05"
