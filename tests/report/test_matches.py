"""Drawings of matched patches: places, limits, the part of a photo that the backbone saw."""

from __future__ import annotations

import numpy as np
import pytest

from fewsight.data.transform import Transform
from fewsight.predictions import MatchedPatch
from fewsight.report.matches import MOST_LINES, MOST_PHOTOS, draw_matches, seen_box
from fewsight.report.thumbnails import Album
from report.pages import photo_bytes

LABELS = {
    "heron/0.jpg": ("heron",),
    "heron/1.jpg": ("heron",),
    "heron/2.jpg": ("heron",),
    "ibis/0.jpg": ("ibis",),
}


def drawings(patches, classes=("heron", "ibis"), transform=None, size=(80, 40)):
    album = Album(lambda kind, file: photo_bytes(1, size))
    return draw_matches(album, "q.jpg", patches, LABELS, classes=classes, transform=transform)


def random_patches(file: str, count: int) -> list[MatchedPatch]:
    generator = np.random.default_rng(count)
    return [
        MatchedPatch((x, y), file, (u, v), w) for x, y, u, v, w in generator.uniform(size=(count, 5)).tolist()
    ]


def test_corners_of_the_photos_are_joined() -> None:
    (drawing,) = drawings([MatchedPatch((0, 0), "heron/0.jpg", (1, 1), 0.5)])
    (line,), query, (support,) = drawing.lines, drawing.query, drawing.supports
    assert (line.x1, line.y1) == pytest.approx((query.x, query.y))
    assert (line.x2, line.y2) == pytest.approx((support.x + support.width, support.y + support.height))
    assert query.x + query.width <= support.x


def test_each_class_has_its_own_drawing_and_only_the_strongest_lines() -> None:
    patches = [patch for file in LABELS for patch in random_patches(file, 9)]
    heron, ibis = drawings(patches)
    assert (heron.label, ibis.label) == ("heron", "ibis")
    assert len(heron.lines) == len(ibis.lines) == MOST_LINES
    assert len(heron.supports) <= MOST_PHOTOS
    for drawing in (heron, ibis):
        for line in drawing.lines:
            assert min(line.x1, line.y1, line.x2, line.y2) >= 0
            assert max(line.x1, line.x2) <= drawing.width
            assert max(line.y1, line.y2) <= drawing.height


def test_no_patches_no_pictures_no_drawing() -> None:
    assert drawings([]) == []
    assert drawings(random_patches("unknown.jpg", 2)) == []
    album = Album(lambda kind, file: None)
    assert draw_matches(album, "q.jpg", random_patches("ibis/0.jpg", 2), LABELS, classes=("ibis",)) == []


def test_places_follow_the_crop() -> None:
    patch = MatchedPatch((0, 0.5), "heron/0.jpg", (1, 0.5), 0.0)
    (drawing,) = drawings([patch], transform=Transform(size=(224, 224)))
    # of a photo twice as wide as high, the middle half was seen
    assert drawing.lines[0].x1 == pytest.approx(drawing.query.x + 0.25 * drawing.query.width)
    assert drawing.lines[0].x2 == pytest.approx(drawing.supports[0].x + 0.75 * drawing.supports[0].width)


def test_seen_box() -> None:
    assert seen_box(300, 100, Transform(mode="squash")) == (0, 0, 1, 1)
    assert seen_box(100, 100, Transform(crop_fraction=0.5)) == (0.25, 0.25, 0.75, 0.75)
    assert seen_box(50, 100, None) == (0, 0, 1, 1)
