"""The report of `predict`: a contact sheet sorted by doubt, counts, a map, how right it was, what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput
from fewsight.predictions import Prediction, Predictions
from fewsight.report.cards import Card, make_card
from fewsight.report.facts import RunFacts, SupportPhoto
from fewsight.report.page import Page, Section, Tile, render, write_page
from fewsight.report.plots import class_colour
from fewsight.report.sections import (
    MapFeatures,
    correction_section,
    expectation_section,
    map_section,
    run_section,
    support_section,
    trouble_section,
)
from fewsight.report.tally import Tally
from fewsight.report.thumbnails import Album, ReadPicture, Thumbnail, fitting_edge
from fewsight.report.truth import truth_section
from fewsight.report.wording import counted, number, percent

__all__ = ["MOST_SHOWN", "MapFeatures", "ReportWritten", "shown_rows", "write_predictions_report"]

MOST_SHOWN = 2000  # cards on one page: more neither load well nor are looked at


@dataclass(frozen=True)
class ReportWritten:
    """What was written: size of the file, cards in it, and photos that could have had one."""

    size: int
    shown: int
    judged: int


def shown_rows(predictions: Sequence[Prediction], limit: int = MOST_SHOWN) -> list[int]:
    """Indices of the rows that the contact sheet shows, the most doubtful first: answered and rejected ones.

    Nearest photos, explanations and features are needed for these rows only.
    """
    return Tally.of(predictions).doubts.first(limit)


def write_predictions_report(
    path: Path | str,
    predictions: Predictions,
    *,
    support: Sequence[SupportPhoto],
    read_picture: ReadPicture,
    features: MapFeatures | None = None,
    facts: RunFacts | None = None,
    transform: Transform | None = None,
    limit: int = MOST_SHOWN,
    tally: Tally | None = None,
) -> ReportWritten:
    """Write `report.html` of a prediction run: one page, no network, whatever the files are called.

    Args:
        path: where to; the file appears whole or not at all.
        predictions: all rows, in input order; they are gone through once, and taken by index only where a photo is
            shown, so that rows that stay on disk will do.
        support: the labelled photos, in the order of `features.support`.
        read_picture: `("query" | "support", file)` to the photo as a picture or encoded bytes, or None; called
            once for each photo shown.
        features: for the map; without them the page has none.
        facts: what was run and how good it will be.
        transform: how the backbone saw a photo, which places the matched patches.
        limit: at most so many photos are shown, the most doubtful first; the rest are counted.
        tally: the counts of all rows, where they were made before.

    Raises:
        InvalidInput: `limit` is below 1, or `features` does not fit the rows.
        FewsightError: the file cannot be written.
    """
    if limit < 1:
        raise InvalidInput(f"limit is {limit}; expected at least 1 photo.")
    facts = facts or RunFacts()
    told = Tally.of(predictions) if tally is None else tally
    levels = told.doubts
    chosen = levels.first(limit)
    album = Album(read_picture, edge=fitting_edge(len(chosen)))
    labels_of = {photo.file: photo.labels for photo in support}
    cards = [
        make_card(
            predictions[index],
            index,
            album,
            labels_of,
            classes=predictions.classes,
            doubt=levels[index],
            transform=transform,
        )
        for index in chosen
    ]
    sections = [
        _sheet(predictions, cards, len(levels)),
        expectation_section(facts),
        _counts(predictions.classes, support, album, told),
        *map_section(predictions.classes, cards, support, features, album),
        *truth_section(predictions.classes, told, facts),
        *trouble_section(told.troubles.found(), album),
        *support_section(predictions.classes, support, album),
        correction_section(facts),
        *run_section(facts),
    ]
    page = Page(
        facts.title, sections, _sentence(predictions, support), _tiles(told, facts), "Made by fewsight"
    )
    return ReportWritten(write_page(path, page), len(cards), len(levels))


def _sentence(predictions: Predictions, support: Sequence[SupportPhoto]) -> str:
    return (
        f"{counted(len(predictions), 'photo')} compared with {counted(len(support), 'labelled photo')} "
        f"of {counted(len(predictions.classes), 'class', 'classes')}."
    )


def _tiles(told: Tally, facts: RunFacts) -> list[Tile]:
    lost = told.statuses["unreadable"] + told.statuses["refused"]
    trust = percent(facts.expected.mean) if facts.expected else "?"
    tiles = [
        Tile(number(told.answered), "have an answer", "#photos"),
        Tile(number(told.in_doubt), "of these in doubt: look here first", "#certainty=in%20doubt", "doubt"),
        Tile(number(told.statuses["rejected"]), "are none of your classes", "#status=rejected", "none"),
        Tile(trust, "expected to be right", "#expectation", "yours"),
        Tile(number(lost), "could not be read", "#trouble", "wrong"),
        Tile(number(told.statuses["duplicate"]), "are among your labelled photos", "#trouble"),
    ]
    # "none of your classes" and "in doubt" are answers even when they are 0
    return [tile for index, tile in enumerate(tiles) if index < 4 or tile.value != "0"]


def _sheet(predictions: Predictions, cards: Sequence[Card], judged: int) -> Section:
    present = {label for card in cards for label in card.labels}
    present |= {card.row.runner_up for card in cards if card.row.runner_up is not None}
    statuses = list(dict.fromkeys(card.row.status for card in cards))
    indices = {name: index for index, name in enumerate(predictions.classes)}
    body = render(
        "cards.html",
        cards=cards,
        classes=[(indices[name], name) for name in predictions.classes if name in present],
        class_index=indices,
        statuses=statuses,
        judged=judged,
        total=len(predictions),
        has_truth=any(card.row.truth for card in cards),
        has_patches=any(card.drawings for card in cards),
    )
    lead = (
        "Those that need your eyes come first. Beside each photo stand your labelled photos that it resembles, "
        "and those of the class that came second."
    )
    return Section("photos", "The photos, doubtful ones first", body, lead)


def _counts(classes: Sequence[str], support: Sequence[SupportPhoto], album: Album, told: Tally) -> Section:
    counts = told.classes.counts(classes, [photo.labels for photo in support])
    samples: dict[str, Thumbnail | None] = {}
    for photo in support:
        for label in photo.labels:
            if samples.get(label) is None:
                samples[label] = album.known("support", photo.file)
    body = render(
        "counts.html",
        counts=counts,
        samples=samples,
        most=max((count.found for count in counts), default=0) or 1,
        rejected=told.statuses["rejected"],
        colour=lambda index: class_colour(index, len(counts)),
    )
    return Section("counts", "What was found", body, "How many photos of each class, and how sure they are.")
