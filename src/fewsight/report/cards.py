"""One card of the contact sheet: a photo, its answer, the labelled photos that speak for it and against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fewsight.data.transform import Transform
from fewsight.predictions import Prediction, SupportMatch
from fewsight.report.doubt import Certainty, certainty
from fewsight.report.matches import Drawing, draw_matches
from fewsight.report.tables import correct, rightly_rejected, said_labels
from fewsight.report.thumbnails import Album, Thumbnail

__all__ = ["Card", "Witness", "make_card", "witness"]

MOST_WITNESSES = 3  # support photos beside each answer
MOST_OTHERS = 5  # classes in the list of all scores


@dataclass(frozen=True)
class Witness:
    """A labelled photo that is like the query."""

    file: str
    label: str
    similarity: float
    picture: Thumbnail | None


@dataclass(frozen=True)
class Card:
    """What the contact sheet shows of one row.

    `certainty` is empty for a rejected photo, `right` None where the truth is not known, `scores` the best
    classes with their probabilities, `drawings` the matched patches.
    """

    row: Prediction
    index: int
    picture: Thumbnail | None
    doubt: float
    certainty: Certainty | None
    right: bool | None
    labels: tuple[str, ...]
    witnesses: tuple[Witness, ...]
    rivals: tuple[Witness, ...]
    scores: tuple[tuple[str, float], ...]
    drawings: tuple[Drawing, ...]


def make_card(
    row: Prediction,
    index: int,
    album: Album,
    labels_of: Mapping[str, Sequence[str]],
    *,
    classes: Sequence[str],
    doubt: float,
    transform: Transform | None = None,
) -> Card:
    """The card of row `index`; reads its pictures into `album`."""
    right = correct(row) if row.answered else rightly_rejected(row, classes)
    for_it, against_it = _witnesses(row)
    best = sorted(row.probabilities.items(), key=lambda pair: -pair[1])[:MOST_OTHERS]
    return Card(
        row=row,
        index=index,
        picture=album.picture("query", row.file),
        doubt=doubt,
        certainty=certainty(row) if row.answered else None,
        right=right,
        labels=said_labels(row),
        witnesses=tuple(witness(match, album, labels_of) for match in for_it[:MOST_WITNESSES]),
        rivals=tuple(witness(match, album, labels_of) for match in against_it[:MOST_WITNESSES]),
        scores=tuple(best),
        drawings=tuple(_drawings(row, album, transform)),
    )


def _witnesses(row: Prediction) -> tuple[Sequence[SupportMatch], Sequence[SupportMatch]]:
    """Support photos for the answer and for the runner-up; for a rejected photo, the nearest of any class."""
    if row.reasons is not None:
        return row.reasons.nearest, row.reasons.nearest_of_runner_up
    if not row.answered:
        return row.nearest, ()
    said = set(said_labels(row))
    return (
        [match for match in row.nearest if match.label in said],
        [match for match in row.nearest if match.label == row.runner_up and match.label not in said],
    )


def witness(match: SupportMatch, album: Album, labels_of: Mapping[str, Sequence[str]]) -> Witness:
    """A support photo beside an answer; without a picture if it is not among the support photos of the page."""
    picture = album.picture("support", match.file) if match.file in labels_of else None
    return Witness(match.file, match.label, match.similarity, picture)


def _drawings(row: Prediction, album: Album, transform: Transform | None) -> list[Drawing]:
    return [] if row.reasons is None else draw_matches(album, row.file, row.reasons, transform=transform)
