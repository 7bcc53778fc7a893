"""Matched patches drawn over two photos: squares of one colour mark places that look alike, a line joins them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fewsight.data.transform import Transform
from fewsight.predictions import Explanation, MatchedPatch
from fewsight.report.thumbnails import Album, Thumbnail

__all__ = ["Cell", "Drawing", "Line", "Placed", "draw_matches", "seen_box"]

# more lines than five cross each other and explain nothing
MOST_LINES, MOST_PHOTOS = 5, 2
LARGE, BOX, GAP = 260.0, 200.0, 40.0  # sides of the query, of a support photo, and between them
FAINT, STRONGEST = 0.2, 0.55  # share of the strongest place that is shown at least; opacity of the strongest
COLOURS = ("#ff9f1c", "#2ec4f3", "#f15bb5", "#a7e22e", "#ffe14d")


@dataclass(frozen=True)
class Placed:
    """A photo in a drawing: its thumbnail and rectangle."""

    picture: Thumbnail
    file: str
    x: float
    y: float
    width: float
    height: float

    def point(self, x: float, y: float) -> tuple[float, float]:
        """From shares of the photo to places in the drawing."""
        return self.x + x * self.width, self.y + y * self.height


@dataclass(frozen=True)
class Line:
    """From a place in the query photo to the place in the support photo that answered for it."""

    x1: float
    y1: float
    x2: float
    y2: float
    colour: str
    width: float


@dataclass(frozen=True)
class Cell:
    """A place of the query photo that speaks for the class of a drawing; `opacity` in [0, 1]."""

    x: float
    y: float
    width: float
    height: float
    opacity: float


@dataclass(frozen=True)
class Drawing:
    """The query on the left, support photos of one class on the right, lines between them.

    `answer` tells the answer's drawing from the runner-up's, `heat` holds the places that speak for its class.
    """

    label: str
    width: float
    height: float
    query: Placed
    supports: tuple[Placed, ...]
    lines: tuple[Line, ...]
    answer: bool = True
    heat: tuple[Cell, ...] = ()


def draw_matches(
    album: Album, file: str, reasons: Explanation, *, transform: Transform | None = None
) -> list[Drawing]:
    """The answer's drawing and beside it the runner-up's, each where there is something to show.

    Args:
        album: the page's pictures.
        file: of the query.
        reasons: places as the backbone saw them, the strongest first.
        transform: how the backbone saw a photo; without it the whole photo.
    """
    sides = (
        (reasons.label, reasons.patches, 1.0),
        (reasons.runner_up, reasons.patches_of_runner_up, -1.0),
    )
    drawings = []
    for label, patches, sign in sides:
        drawing = _draw(album, file, label, patches, transform)
        if drawing is not None:
            heat = _heat(drawing.query, reasons.evidence, sign, transform)
            drawings.append(replace(drawing, answer=sign > 0, heat=heat))
    return drawings


def _heat(
    query: Placed, evidence: Sequence[Sequence[float]], sign: float, transform: Transform | None
) -> tuple[Cell, ...]:
    """The cells of the photo that speak for a side, the faint ones left out."""
    if not evidence:
        return ()
    left, top, right, bottom = seen_box(query.width, query.height, transform)
    wide, high = (right - left) / len(evidence[0]), (bottom - top) / len(evidence)
    cells = []
    for row, values in enumerate(evidence):
        for column, value in enumerate(values):
            if sign * value > FAINT:
                x, y = query.point(left + column * wide, top + row * high)
                cells.append(Cell(x, y, wide * query.width, high * query.height, STRONGEST * sign * value))
    return tuple(cells)


def _draw(
    album: Album, file: str, label: str, patches: Sequence[MatchedPatch], transform: Transform | None
) -> Drawing | None:
    files = list(dict.fromkeys(patch.file for patch in patches[:MOST_LINES]))[:MOST_PHOTOS]
    shown = [patch for patch in patches if patch.file in files][:MOST_LINES]
    picture = album.picture("query", file)
    pictures = {name: album.picture("support", name) for name in files}
    if picture is None or not shown or any(found is None for found in pictures.values()):
        return None
    height = LARGE if len(files) < 2 else 0.8 * BOX
    canvas = max(LARGE, height * len(files) + 8 * (len(files) - 1))
    query = _fitted(picture, file, 0, (canvas - LARGE) / 2, LARGE, LARGE)
    supports = {
        name: _fitted(found, name, LARGE + GAP, index * (height + 8), BOX, height)
        for index, (name, found) in enumerate(pictures.items())
        if found is not None
    }
    most = max(patch.weight for patch in shown) or 1.0
    lines = []
    for patch, colour in zip(shown, COLOURS, strict=False):
        support = supports[patch.file]
        x1, y1 = query.point(*_in_photo(patch.query, query, transform))
        x2, y2 = support.point(*_in_photo(patch.support, support, transform))
        lines.append(Line(x1, y1, x2, y2, colour, 1.5 + 2 * patch.weight / most))
    return Drawing(label, LARGE + GAP + BOX, canvas, query, tuple(supports.values()), tuple(lines))


def _fitted(picture: Thumbnail, file: str, x: float, y: float, width: float, height: float) -> Placed:
    """The picture as large as fits into a box, centred."""
    scale = min(width / picture.width, height / picture.height)
    wide, high = picture.width * scale, picture.height * scale
    return Placed(picture, file, x + (width - wide) / 2, y + (height - high) / 2, wide, high)


def _in_photo(place: tuple[float, float], photo: Placed, transform: Transform | None) -> tuple[float, float]:
    left, top, right, bottom = seen_box(photo.width, photo.height, transform)
    return left + place[0] * (right - left), top + place[1] * (bottom - top)


def seen_box(width: float, height: float, transform: Transform | None) -> tuple[float, float, float, float]:
    """The part of a photo that the backbone saw: left, top, right, bottom as shares of the photo.

    >>> seen_box(200, 100, Transform(size=(224, 224), crop_fraction=1.0))
    (0.25, 0.0, 0.75, 1.0)
    """
    if transform is None or transform.mode == "squash":
        return 0.0, 0.0, 1.0, 1.0
    high, wide = transform.size
    # pixels of the photo for one pixel of the input
    scale = min(width, height) * transform.crop_fraction / min(high, wide)
    half_width = min(0.5, wide * scale / width / 2)
    half_height = min(0.5, high * scale / height / 2)
    return 0.5 - half_width, 0.5 - half_height, 0.5 + half_width, 0.5 + half_height
