"""The page of `fewsight neighbours`: each query with its nearest photos, those of wrong training classes marked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewsight.data.decode import decode
from fewsight.errors import UnreadableImage
from fewsight.report.page import Page, Section, Tile, render, write_page
from fewsight.report.thumbnails import Album, Thumbnail
from fewsight.report.wording import counted
from fewsight.workflows.neighbours_result import NeighboursFound, Photo

__all__ = ["report_neighbours"]

MOST_SHOWN = 200  # queries on the page, evenly spread from most to fewest wrong neighbours
EDGE = 128  # pixels
MARKS = {"own class": "right", "wrong training class": "wrong", "wrong test class": ""}


@dataclass(frozen=True)
class _Shown:
    picture: Thumbnail | None
    first: bool  # the picture stands here; elsewhere it is copied
    file: str
    labels: tuple[str, ...]
    kind: str
    mark: str
    cosine: float | None


def report_neighbours(found: NeighboursFound, path: Path) -> None:
    """Write the page of what was found."""
    count = min(len(found.queries), MOST_SHOWN)
    chosen = [found.queries[index * len(found.queries) // count] for index in range(count)]
    pictures = _Pictures()
    rows = [
        (
            pictures.shown(row.query),
            [
                pictures.shown(photo, kind, cosine)
                for photo, kind, cosine in zip(row.nearest, row.kinds, row.cosines, strict=True)
            ],
        )
        for row in chosen
    ]
    figures = [(kind, share, found.by_chance[kind]) for kind, share in found.shares.items()]
    classes = sorted(found.by_class.items(), key=lambda item: -item[1])
    body = render("neighbours_figures.html", found=found, figures=figures, classes=classes)
    sheet = render("neighbours.html", rows=rows, left_out=len(found.queries) - count)
    page = Page(
        "Where new classes land",
        [
            Section(
                "figures",
                "How far supervision collapsed",
                body,
                "Photos of classes that the network was not trained on should find their own kind. Where they land "
                "among a class it was trained on, it has forgotten what sets them apart.",
            ),
            Section(
                "queries",
                "The queries with their nearest photos",
                sheet,
                "Most neighbours from wrong training classes first. Left the query, then its nearest photos.",
            ),
        ],
        f"The {found.k} nearest photos of {counted(found.tested, 'query', 'queries')} among "
        f"{counted(found.trained_on, 'photo')} of training classes and the other queries, by {found.backbone}.",
        [
            Tile(f"{100 * found.collapse.mean:.1f} %", "of a wrong training class", "#figures", "wrong"),
            Tile(f"{100 * found.shares['own class'].mean:.1f} %", "of the query's own class", "#figures"),
        ],
        "Made by fewsight",
    )
    write_page(path, page)


class _Pictures:
    """Each photo stands in the page once; where it comes again, the page's script copies it."""

    def __init__(self) -> None:
        self.album = Album(_read, edge=EDGE)

    def shown(self, photo: Photo, kind: str = "", cosine: float | None = None) -> _Shown:
        first = self.album.known("support", photo.path) is None
        picture = self.album.picture("support", photo.path)
        return _Shown(picture, first, photo.file, photo.labels, kind, MARKS.get(kind, ""), cosine)


def _read(kind: str, path: str) -> Any:
    from PIL import Image

    try:
        return Image.fromarray(decode(path, needed=(EDGE, EDGE)).image)
    except UnreadableImage:
        return None
