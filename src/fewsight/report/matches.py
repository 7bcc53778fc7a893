"""Matched patches drawn over two photos: squares of one colour mark places that look alike, a line joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fewsight.data.transform import Transform
from fewsight.predictions import MatchedPatch
from fewsight.report.thumbnails import Album, Thumbnail

__all__ = ["Drawing", "Line", "Placed", "draw_matches", "seen_box"]

# more lines than five cross each other and explain nothing
MOST_LINES, MOST_PHOTOS = 5, 2
BOX, GAP = 200.0, 48.0
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
class Drawing:
    """The query on the left, support photos of one class on the right, lines between them."""

    label: str
    width: float
    height: float
    query: Placed
    supports: tuple[Placed, ...]
    lines: tuple[Line, ...]


def draw_matches(
    album: Album,
    file: str,
    patches: Sequence[MatchedPatch],
    labels_of: Mapping[str, Sequence[str]],
    *,
    classes: Sequence[str],
    transform: Transform | None = None,
) -> list[Drawing]:
    """One drawing for each of `classes` whose support photos answered for a patch of the query `file`.

    Args:
        album: the page's pictures.
        patches: places as the backbone saw them.
        labels_of: class names of each support photo.
        transform: how the backbone saw a photo; without it the whole photo.
    """
    drawings = []
    for label in dict.fromkeys(classes):
        own = [patch for patch in patches if label in labels_of.get(patch.file, ())]
        drawing = _draw(album, file, label, own, transform)
        if drawing is not None:
            drawings.append(drawing)
    return drawings


def _draw(
    album: Album, file: str, label: str, patches: Sequence[MatchedPatch], transform: Transform | None
) -> Drawing | None:
    strongest = sorted(patches, key=lambda patch: -patch.weight)
    files = list(dict.fromkeys(patch.file for patch in strongest))[:MOST_PHOTOS]
    shown = [patch for patch in strongest if patch.file in files][:MOST_LINES]
    picture = album.picture("query", file)
    pictures = {name: album.picture("support", name) for name in files}
    if picture is None or not shown or any(found is None for found in pictures.values()):
        return None
    height = BOX / max(1, len(files)) if len(files) < 2 else 0.8 * BOX
    canvas = max(BOX, height * len(files) + 8 * (len(files) - 1))
    query = _fitted(picture, file, 0, (canvas - BOX) / 2, BOX)
    supports = {
        name: _fitted(found, name, BOX + GAP, index * (height + 8), height)
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
    return Drawing(label, 2 * BOX + GAP, canvas, query, tuple(supports.values()), tuple(lines))


def _fitted(picture: Thumbnail, file: str, x: float, y: float, height: float) -> Placed:
    """The picture as large as fits into a box `BOX` wide, centred."""
    scale = min(BOX / picture.width, height / picture.height)
    wide, high = picture.width * scale, picture.height * scale
    return Placed(picture, file, x + (BOX - wide) / 2, y + (height - high) / 2, wide, high)


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
