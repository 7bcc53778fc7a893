"""The report of `predict`: a contact sheet sorted by doubt, counts, a map, how right it was, what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput
from fewsight.predictions import Prediction, Predictions
from fewsight.report.cards import Card, make_card
from fewsight.report.doubt import certainty, doubtful_first, doubts
from fewsight.report.facts import RunFacts, SupportPhoto
from fewsight.report.maps import choose_method, place
from fewsight.report.page import Page, Section, Tile, render, write_page
from fewsight.report.plots import class_colour, curve_path, risk_coverage
from fewsight.report.tables import NONE_OF_THESE, class_counts, confusion, troubles
from fewsight.report.thumbnails import Album, ReadPicture, Thumbnail, fitting_edge
from fewsight.report.wording import counted, number, percent

if TYPE_CHECKING:
    import numpy as np

__all__ = ["MOST_SHOWN", "MapFeatures", "ReportWritten", "shown_rows", "write_predictions_report"]

MOST_SHOWN = 2000  # cards on one page: more neither load well nor are looked at
MOST_SUPPORT = 1000  # labelled photos on one page
MOST_ON_MAP, MOST_SUPPORT_ON_MAP = 1500, 500  # together what t-SNE places in some seconds
MOST_TROUBLES = 200  # rows of a list of unreadable photos
MOST_MATRIX = 25  # classes of a confusion matrix that can still be read
MOST_MIX_UPS = 12


@dataclass(frozen=True)
class MapFeatures:
    """What the map is made of.

    Attributes:
        support: features `[S, D]`, one row for each support photo.
        queries: features `[N, D]`, one row for each row of the predictions; only the rows shown are taken
            (`queries[indices]`), so that a memory map will do. Rows that are not finite are left out.
    """

    support: np.ndarray
    queries: Any


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
    return doubtful_first(doubts(predictions), limit=limit)


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
) -> ReportWritten:
    """Write `report.html` of a prediction run: one page, no network, whatever the files are called.

    Args:
        path: where to; the file appears whole or not at all.
        predictions: all rows, in input order.
        support: the labelled photos, in the order of `features.support`.
        read_picture: `("query" | "support", file)` to the photo as a picture or encoded bytes, or None; called
            once for each photo shown.
        features: for the map; without them the page has none.
        facts: what was run and how good it will be.
        transform: how the backbone saw a photo, which places the matched patches.
        limit: at most so many photos are shown, the most doubtful first; the rest are counted.

    Raises:
        InvalidInput: `limit` is below 1, or `features` does not fit the rows.
        FewsightError: the file cannot be written.
    """
    if limit < 1:
        raise InvalidInput(f"limit is {limit}; expected at least 1 photo.")
    facts = facts or RunFacts()
    levels = doubts(predictions)
    chosen = doubtful_first(levels, limit=limit)
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
        _expectation(facts),
        _counts(predictions, support, album),
        *_map(predictions, cards, support, features, album),
        *_truth(predictions, facts),
        *_troubles(predictions, album),
        *_support(predictions.classes, support, album),
        _next_steps(facts),
        *_run(facts),
    ]
    page = Page(
        facts.title, sections, _sentence(predictions, support), _tiles(predictions, facts), "Made by fewsight"
    )
    return ReportWritten(write_page(path, page), len(cards), len(levels))


def _sentence(predictions: Predictions, support: Sequence[SupportPhoto]) -> str:
    return (
        f"{counted(len(predictions), 'photo')} compared with {counted(len(support), 'labelled photo')} "
        f"of {counted(len(predictions.classes), 'class', 'classes')}."
    )


def _tiles(predictions: Predictions, facts: RunFacts) -> list[Tile]:
    counts = predictions.counts()
    answered = [row for row in predictions if row.answered]
    in_doubt = sum(certainty(row) == "in doubt" for row in answered)
    lost = counts["unreadable"] + counts["refused"]
    trust = percent(facts.expected.mean) if facts.expected else "?"
    tiles = [
        Tile(number(len(answered)), "have an answer", "#photos"),
        Tile(number(in_doubt), "of these in doubt: look here first", "#certainty=in%20doubt", "doubt"),
        Tile(number(counts["rejected"]), "are none of your classes", "#status=rejected", "none"),
        Tile(trust, "expected to be right", "#expectation", "yours"),
        Tile(number(lost), "could not be read", "#trouble", "wrong"),
        Tile(number(counts["duplicate"]), "are among your labelled photos", "#trouble"),
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


def _counts(predictions: Predictions, support: Sequence[SupportPhoto], album: Album) -> Section:
    counts = class_counts(predictions.rows, predictions.classes, [photo.labels for photo in support])
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
        rejected=predictions.counts()["rejected"],
        colour=lambda index: class_colour(index, len(counts)),
    )
    return Section("counts", "What was found", body, "How many photos of each class, and how sure they are.")


def _map(
    predictions: Predictions,
    cards: Sequence[Card],
    support: Sequence[SupportPhoto],
    features: MapFeatures | None,
    album: Album,
) -> Iterator[Section]:
    import numpy as np

    if features is None:
        return
    if len(features.support) != len(support):
        raise InvalidInput(
            f"features.support has {len(features.support)} rows; expected one for each of {len(support)} "
            "support photos."
        )
    on_map = [cards[i] for i in _spread(len(cards), MOST_ON_MAP)]
    given = _spread(len(support), MOST_SUPPORT_ON_MAP)
    rows = np.asarray(features.queries[[card.index for card in on_map]], dtype=np.float64)
    if not on_map or rows.ndim != 2:
        return
    both = np.concatenate([np.asarray(features.support, dtype=np.float64)[given], rows])
    places = place(both)
    body = render(
        "map.html",
        support=[_support_point(support[i], xy, album) for i, xy in zip(given, places, strict=False)],
        queries=[
            (card, float(xy[0]), float(xy[1]))
            for card, xy in zip(on_map, places[len(given) :], strict=True)
            if np.isfinite(xy).all()
        ],
        classes=list(enumerate(predictions.classes)),
        class_index={name: index for index, name in enumerate(predictions.classes)},
        colour=lambda index: class_colour(index, len(predictions.classes)),
        method=choose_method(int(np.isfinite(both).all(axis=1).sum())),
        left_out=len(cards) - len(on_map),
    )
    lead = (
        "Each dot is a photo. Photos that look alike to fewsight stand close together; a dot far from all "
        "diamonds resembles none of your labelled photos."
    )
    yield Section("map", "A map of likeness", body, lead)


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spread."""
    return [index * count // min(count, most) for index in range(min(count, most))]


def _support_point(
    photo: SupportPhoto, place: np.ndarray, album: Album
) -> tuple[SupportPhoto, Thumbnail | None, float, float]:
    return photo, album.picture("support", photo.file), float(place[0]), float(place[1])


def _expectation(facts: RunFacts) -> Section:
    return Section(
        "expectation",
        "How far to trust it",
        render("expectation.html", facts=facts),
        "Judged from your labelled photos alone, before any other photo was looked at.",
    )


def _truth(predictions: Predictions, facts: RunFacts) -> Iterator[Section]:
    table = confusion(predictions.rows, predictions.classes)
    curve = risk_coverage(predictions.rows)
    if table is None or curve is None:
        return
    top = max(0.05, *curve.risk)
    body = render(
        "truth.html",
        table=table if len(table.answers) <= MOST_MATRIX else None,
        most=max(max(row) for row in table.counts) or 1,
        mix_ups=table.mix_ups[:MOST_MIX_UPS],
        more_mix_ups=max(0, len(table.mix_ups) - MOST_MIX_UPS),
        class_index={name: index for index, name in enumerate(predictions.classes)},
        none=NONE_OF_THESE,
        curve=curve,
        path=curve_path((0, *curve.coverage), (curve.risk[0], *curve.risk), width=480, height=200, top=top),
        top=top,
        measured=facts.measured,
    )
    lead = f"For {counted(curve.answered, 'photo')} the right answer is known; here is how they compare."
    yield Section("truth", "How right it was", body, lead)


def _troubles(predictions: Predictions, album: Album) -> Iterator[Section]:
    found = troubles(predictions.rows)
    if not found:
        return
    shown = {status: rows[:MOST_TROUBLES] for status, rows in found.items()}
    pictures = {row.file: album.picture("query", row.file) for row in shown.get("duplicate", ())}
    for row in shown.get("suspicious", ()):
        pictures[row.file] = album.known("query", row.file)
    body = render(
        "trouble.html",
        troubles=[(status, rows, len(found[status])) for status, rows in shown.items()],
        pictures=pictures,
    )
    yield Section("trouble", "Photos with trouble", body, "None of them stopped the run; each has its row.")


def _support(classes: Sequence[str], support: Sequence[SupportPhoto], album: Album) -> Iterator[Section]:
    if not support:
        return
    # photos that speak for some answer are in the album already and must be shown: cards copy them from here
    named = [photo for photo in support if album.known("support", photo.file) is not None]
    seen = {photo.file for photo in named}
    by_class: dict[str, list[SupportPhoto]] = {name: [] for name in classes}
    others: dict[str, list[SupportPhoto]] = {name: [] for name in classes}
    for photo in support:
        first = photo.labels[0] if photo.labels else ""
        (by_class if photo.file in seen else others).setdefault(first, []).append(photo)
    # one of each class in turn, so that no large class takes all the room
    room = max(0, MOST_SUPPORT - len(named))
    for photo in [p for turn in zip_longest(*others.values()) for p in turn if p is not None][:room]:
        by_class.setdefault(photo.labels[0] if photo.labels else "", []).append(photo)
    groups = [
        (name, [(photo, album.picture("support", photo.file)) for photo in photos])
        for name, photos in by_class.items()
        if photos
    ]
    shown = sum(len(photos) for _, photos in groups)
    body = render("support.html", groups=groups, left_out=len(support) - shown)
    lead = "All answers rest on these. A wrong label here does more harm than anything else."
    yield Section("support", "Your labelled photos", body, lead)


def _next_steps(facts: RunFacts) -> Section:
    return Section(
        "correct",
        "Correct it and run again",
        render("correct.html", facts=facts),
        "A few corrected photos help more than anything else you can do.",
    )


def _run(facts: RunFacts) -> Iterator[Section]:
    if facts.settings or facts.licences or facts.command:
        body = render("run.html", facts=facts)
        yield Section("run", "What was run", body, "Enough to repeat it; run.yaml holds the rest.")
