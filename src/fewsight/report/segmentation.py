"""The report of `segment`: each photo with its masks, what is here and what is absent, the photos that answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from fewsight.errors import InvalidInput
from fewsight.predictions import SupportMatch
from fewsight.report.cards import MOST_WITNESSES, Witness, witness
from fewsight.report.doubt import FAIRLY_SURE, IN_DOUBT, Certainty, doubtful_first
from fewsight.report.facts import RunFacts, SupportPhoto
from fewsight.report.masks import mask_layer
from fewsight.report.page import Page, Section, Tile, render, write_page
from fewsight.report.plots import class_colour
from fewsight.report.predictions import MOST_SHOWN, ReportWritten
from fewsight.report.sections import expectation_section, run_section, support_section, trouble_section
from fewsight.report.tables import troubles
from fewsight.report.thumbnails import Album, Kind, ReadPicture, Thumbnail, fitting_edge
from fewsight.report.wording import counted, number

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Presence", "ReadMask", "SegmentedPhoto", "presence_doubt", "write_segmentation_report"]

ReadMask = Callable[[Kind, str], "npt.ArrayLike | None"]

MOST_ABSENT = 4  # classes listed on a card as absent, the likeliest first
EDGE = 208  # masks need more pixels than faces
MANY_EDGE = 144


@dataclass(frozen=True)
class Presence:
    """Whether one class is in one photo.

    Attributes:
        label: the class.
        probability: calibrated, that it is here, in [0, 1].
        present: the decision.
        area: share of the photo that its mask covers, in [0, 1].
    """

    label: str
    probability: float
    present: bool
    area: float = 0.0


@dataclass(frozen=True)
class SegmentedPhoto:
    """One row of `photos.csv` with what was found; `truth` is None where it is not known."""

    file: str
    status: str
    note: str = ""
    presences: tuple[Presence, ...] = ()
    nearest: tuple[SupportMatch, ...] = ()
    truth: tuple[str, ...] | None = None

    @property
    def answered(self) -> bool:
        """Whether the photo was looked at."""
        return self.status in ("ok", "suspicious")


@dataclass(frozen=True)
class _Card:
    row: SegmentedPhoto
    index: int
    picture: Thumbnail | None
    mask: Thumbnail | None
    doubt: float
    certainty: Certainty
    right: bool | None
    present: tuple[Presence, ...]
    absent: tuple[Presence, ...]
    witnesses: tuple[Witness, ...]


@dataclass(frozen=True)
class _ClassArea:
    name: str
    index: int
    support: int
    found: int
    area: float | None


@dataclass(frozen=True)
class _Colours:
    """Colours of the classes; label i + 1 of a mask is class i."""

    classes: Sequence[str]
    by_label: Mapping[int, str] = field(init=False)

    def __post_init__(self) -> None:
        colours = {index + 1: self.of(index) for index in range(len(self.classes))}
        object.__setattr__(self, "by_label", colours)

    def of(self, index: int) -> str:
        """The colour of one class."""
        return class_colour(index, max(1, len(self.classes)))


def presence_doubt(row: SegmentedPhoto, threshold: float = 0.5) -> float:
    """How near the least certain decision is to the other side, in [0, 1]; 1 where nothing was decided.

    >>> presence_doubt(SegmentedPhoto("a.jpg", "ok", presences=(Presence("cat", 0.75, True),)))
    0.5
    """
    return max(
        (_one_doubt(presence.probability, threshold) for presence in row.presences),
        default=1.0,
    )


def _one_doubt(probability: float, threshold: float) -> float:
    room = 1 - threshold if probability >= threshold else threshold
    return 1.0 - min(1.0, abs(probability - threshold) / room) if room > 0 else 1.0


def write_segmentation_report(
    path: Path | str,
    photos: Sequence[SegmentedPhoto],
    classes: Sequence[str],
    *,
    support: Sequence[SupportPhoto],
    read_picture: ReadPicture,
    read_mask: ReadMask,
    facts: RunFacts | None = None,
    threshold: float = 0.5,
    limit: int = MOST_SHOWN,
) -> ReportWritten:
    """Write `report.html` of a segmentation run: one page, no network, whatever the files are called.

    Args:
        path: where to; the file appears whole or not at all.
        photos: all rows, in input order.
        classes: names; class i is label i + 1 in every mask, 0 is background.
        support: the labelled photos.
        read_picture: `("query" | "support", file)` to the photo as a picture or encoded bytes, or None.
        read_mask: the same to a label map `[H, W]` at any size, or None; called for photos that are shown.
        facts: what was run and how good it will be.
        threshold: of the presence probability, from which doubt is measured.
        limit: at most so many photos are shown, the most doubtful first; the rest are counted.

    Raises:
        InvalidInput: `limit` is below 1 or `threshold` not in [0, 1].
        FewsightError: the file cannot be written.
    """
    if limit < 1 or not 0 <= threshold <= 1:
        raise InvalidInput(
            f"limit is {limit} and threshold {threshold}; expected at least 1 photo and a value in [0, 1]."
        )
    facts = facts or RunFacts(title="Where it is in the photos")
    levels = {index: presence_doubt(row, threshold) for index, row in enumerate(photos) if row.answered}
    chosen = doubtful_first(levels, limit=limit)
    edge = EDGE if len(chosen) <= 600 else MANY_EDGE
    album = Album(read_picture, edge=max(edge, fitting_edge(len(chosen))))
    colours = _Colours(classes)
    labels_of = {photo.file: photo.labels for photo in support}
    cards = [
        _card(photos[index], index, levels[index], album, labels_of, colours, read_mask) for index in chosen
    ]
    sections = [
        _sheet(photos, cards, len(levels), colours),
        expectation_section(facts),
        _areas(photos, support, colours),
        *trouble_section(troubles(photos), album),
        *_support(support, album, colours, read_mask),
        *run_section(facts),
    ]
    sentence = (
        f"{counted(len(photos), 'photo')} searched for {counted(len(classes), 'class', 'classes')} "
        f"shown in {counted(len(support), 'labelled photo')}."
    )
    page = Page(facts.title, sections, sentence, _tiles(photos, levels), "Made by fewsight")
    return ReportWritten(write_page(path, page), len(cards), len(levels))


def _card(
    row: SegmentedPhoto,
    index: int,
    doubt: float,
    album: Album,
    labels_of: Mapping[str, Sequence[str]],
    colours: _Colours,
    read_mask: ReadMask,
) -> _Card:
    likeliest = sorted(row.presences, key=lambda presence: -presence.probability)
    present = tuple(presence for presence in likeliest if presence.present)
    absent = tuple(presence for presence in likeliest if not presence.present)
    right = None if row.truth is None else {presence.label for presence in present} == set(row.truth)
    return _Card(
        row=row,
        index=index,
        picture=album.picture("query", row.file),
        mask=_mask("query", row.file, f"mq{index}", album, colours, read_mask),
        doubt=doubt,
        certainty="in doubt" if doubt > IN_DOUBT else "fairly sure" if doubt > FAIRLY_SURE else "sure",
        right=right,
        present=present,
        absent=absent[:MOST_ABSENT],
        witnesses=tuple(witness(match, album, labels_of) for match in row.nearest[:MOST_WITNESSES]),
    )


def _mask(
    kind: Kind, file: str, key: str, album: Album, colours: _Colours, read_mask: ReadMask
) -> Thumbnail | None:
    picture = album.known(kind, file)
    labels = read_mask(kind, file) if picture is not None else None
    if picture is None or labels is None:
        return None
    layer = mask_layer(labels, colours.by_label, picture, key=key)
    album.used += len(layer.uri) if layer is not None else 0
    return layer


def _sheet(
    photos: Sequence[SegmentedPhoto], cards: Sequence[_Card], judged: int, colours: _Colours
) -> Section:
    found = {presence.label for card in cards for presence in card.present}
    body = render(
        "segments.html",
        cards=cards,
        classes=[(index, name) for index, name in enumerate(colours.classes) if name in found],
        class_index={name: index for index, name in enumerate(colours.classes)},
        statuses=list(dict.fromkeys(card.row.status for card in cards)),
        judged=judged,
        total=len(photos),
        has_truth=any(card.right is not None for card in cards),
        has_masks=True,
        colour=colours.of,
    )
    lead = "Those that need your eyes come first. A class may be here or absent; both are answers."
    return Section("photos", "The photos, doubtful ones first", body, lead)


def _areas(photos: Sequence[SegmentedPhoto], support: Sequence[SupportPhoto], colours: _Colours) -> Section:
    areas: dict[str, list[float]] = {name: [] for name in colours.classes}
    for row in photos:
        for presence in row.presences:
            if row.answered and presence.present:
                areas.setdefault(presence.label, []).append(presence.area)
    counts = [
        _ClassArea(
            name,
            index,
            sum(name in photo.labels for photo in support),
            len(areas[name]),
            median(areas[name]) if areas[name] else None,
        )
        for index, name in enumerate(colours.classes)
    ]
    body = render(
        "areas.html",
        counts=sorted(counts, key=lambda count: -count.found),
        most=max((count.found for count in counts), default=0) or 1,
        empty=sum(row.answered and not any(p.present for p in row.presences) for row in photos),
        colour=colours.of,
    )
    lead = "In how many photos each class was found, and how much of a photo it usually covers."
    return Section("counts", "What was found", body, lead)


def _support(
    support: Sequence[SupportPhoto], album: Album, colours: _Colours, read_mask: ReadMask
) -> Iterator[Section]:
    # masks of the photos that cards show: these are in the album already
    masks = {
        photo.file: layer
        for index, photo in enumerate(support)
        if (layer := _mask("support", photo.file, f"ms{index}", album, colours, read_mask)) is not None
    }
    yield from support_section(colours.classes, support, album, masks=masks)


def _tiles(photos: Sequence[SegmentedPhoto], levels: Mapping[int, float]) -> list[Tile]:
    answered = [row for row in photos if row.answered]
    found = sum(any(presence.present for presence in row.presences) for row in answered)
    in_doubt = sum(level > IN_DOUBT for level in levels.values())
    lost = sum(row.status in ("unreadable", "refused") for row in photos)
    tiles = [
        Tile(number(found), "hold at least one of your classes", "#photos"),
        Tile(number(in_doubt), "in doubt: look here first", "#certainty=in%20doubt", "doubt"),
        Tile(number(len(answered) - found), "hold none of them", "#counts", "none"),
    ]
    return tiles + ([Tile(number(lost), "could not be read", "#trouble", "wrong")] if lost else [])
