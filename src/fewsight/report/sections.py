"""Sections that reports of several verbs share: trust, trouble, the support, a map, corrections, the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from fewsight.errors import InvalidInput
from fewsight.report.cards import Card
from fewsight.report.facts import RunFacts, SupportPhoto
from fewsight.report.maps import choose_method, place
from fewsight.report.page import Section, render
from fewsight.report.plots import class_colour
from fewsight.report.tables import HasStatus
from fewsight.report.thumbnails import Album, Thumbnail

__all__ = [
    "MapFeatures",
    "correction_section",
    "expectation_section",
    "map_section",
    "run_section",
    "support_section",
    "trouble_section",
]

MOST_SUPPORT = 1000  # labelled photos on one page
MOST_ON_MAP, MOST_SUPPORT_ON_MAP = 1000, 400  # together what t-SNE places in some seconds


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


def expectation_section(facts: RunFacts) -> Section:
    """How good the answers will be, as far as the support alone can tell."""
    return Section(
        "expectation",
        "How far to trust it",
        render("expectation.html", facts=facts),
        "Judged from your labelled photos alone, before any other photo was looked at.",
    )


def map_section(
    classes: Sequence[str],
    cards: Sequence[Card],
    support: Sequence[SupportPhoto],
    features: MapFeatures | None,
    album: Album,
) -> Iterator[Section]:
    """The map of the cards and the support, if there are features.

    Raises:
        InvalidInput: `features.support` has another number of rows than the support.
    """
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
        classes=list(enumerate(classes)),
        class_index={name: index for index, name in enumerate(classes)},
        colour=lambda index: class_colour(index, len(classes)),
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


def trouble_section(found: Mapping[str, tuple[list[HasStatus], int]], album: Album) -> Iterator[Section]:
    """What was unreadable, refused, damaged or also in the support, if anything was; `found` by `TroubleTally`."""
    if not found:
        return
    pictures = {row.file: album.picture("query", row.file) for row in found.get("duplicate", ([], 0))[0]}
    for row in found.get("suspicious", ([], 0))[0]:
        pictures[row.file] = album.known("query", row.file)
    listed = [(status, bad, count) for status, (bad, count) in found.items()]
    body = render("trouble.html", troubles=listed, pictures=pictures)
    yield Section("trouble", "Photos with trouble", body, "None of them stopped the run; each has its row.")


def support_section(
    classes: Sequence[str],
    support: Sequence[SupportPhoto],
    album: Album,
    *,
    masks: Mapping[str, Thumbnail] | None = None,
) -> Iterator[Section]:
    """The labelled photos by class: all that other sections copy from here, then as many as there is room for.

    Args:
        masks: drawings to lay over a photo, by its file.
    """
    if not support:
        return
    chosen = _shown_support(list({photo.file: photo for photo in support}.values()), album)
    groups: dict[str, list[tuple[SupportPhoto, Thumbnail | None]]] = {name: [] for name in classes}
    for photo in chosen:
        groups.setdefault(_first_label(photo), []).append((photo, album.picture("support", photo.file)))
    body = render(
        "support.html",
        groups=[(name, photos) for name, photos in groups.items() if photos],
        left_out=len(support) - len(chosen),
        masks=masks or {},
    )
    lead = "All answers rest on these. A wrong label here does more harm than anything else."
    yield Section("support", "Your labelled photos", body, lead)


def _shown_support(support: Sequence[SupportPhoto], album: Album) -> list[SupportPhoto]:
    """Photos that are in the album already, for cards copy them from here; then of each class in turn."""
    named = [photo for photo in support if album.known("support", photo.file) is not None]
    seen = {photo.file for photo in named}
    others: dict[str, list[SupportPhoto]] = {}
    for photo in support:
        if photo.file not in seen:
            others.setdefault(_first_label(photo), []).append(photo)
    in_turn = [photo for turn in zip_longest(*others.values()) for photo in turn if photo is not None]
    return named + in_turn[: max(0, MOST_SUPPORT - len(named))]


def _first_label(photo: SupportPhoto) -> str:
    return photo.labels[0] if photo.labels else ""


def correction_section(facts: RunFacts) -> Section:
    """How to correct the answers and run again."""
    return Section(
        "correct",
        "Correct it and run again",
        render("correct.html", facts=facts),
        "A few corrected photos help more than anything else you can do.",
    )


def run_section(facts: RunFacts) -> Iterator[Section]:
    """What was run, if anything is known of it."""
    if facts.settings or facts.licences or facts.command:
        body = render("run.html", facts=facts)
        yield Section("run", "What was run", body, "Enough to repeat it; run.yaml holds the rest.")
