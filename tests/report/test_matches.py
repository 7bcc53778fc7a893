"""Drawings of matched patches: places, limits, the part of a photo that the backbone saw."""

from __future__ import annotations

import numpy as np
import pytest

from fewsight.data.transform import Transform
from fewsight.predictions import Explanation, MatchedPatch
from fewsight.report.matches import MOST_LINES, MOST_PHOTOS, draw_matches, seen_box
from fewsight.report.thumbnails import Album
from report.pages import photo_bytes

LABELS = {
    "heron/0.jpg": ("heron",),
    "heron/1.jpg": ("heron",),
    "heron/2.jpg": ("heron",),
    "ibis/0.jpg": ("ibis",),
}


def reasons(patches, evidence=()) -> Explanation:
    """Patches of herons speak for the answer, those of ibises for the runner-up."""
    herons, ibises = ([p for p in patches if p.file.startswith(kind)] for kind in ("heron", "ibis"))
    return Explanation("heron", "ibis", (), (), tuple(herons), tuple(ibises), evidence)


def drawings(patches, evidence=(), transform=None, size=(80, 40)):
    album = Album(lambda kind, file: photo_bytes(1, size))
    return draw_matches(album, "q.jpg", reasons(patches, evidence), transform=transform)


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
    assert (heron.answer, ibis.answer) == (True, False)
    assert 0 < len(heron.lines) <= MOST_LINES
    assert len(ibis.lines) == MOST_LINES
    assert len(heron.supports) <= MOST_PHOTOS
    for drawing in (heron, ibis):
        for line in drawing.lines:
            assert min(line.x1, line.y1, line.x2, line.y2) >= 0
            assert max(line.x1, line.x2) <= drawing.width
            assert max(line.y1, line.y2) <= drawing.height


def test_no_patches_no_pictures_no_drawing() -> None:
    assert drawings([]) == []
    album = Album(lambda kind, file: None)
    assert draw_matches(album, "q.jpg", reasons(random_patches("ibis/0.jpg", 2))) == []


def test_the_strongest_places_come_first_and_decide_the_photos() -> None:
    patches = [MatchedPatch((0.1 * n, 0.5), f"heron/{n % 3}.jpg", (0.5, 0.5), 0.1 * n) for n in range(1, 7)]
    (drawing,) = drawings(patches)
    assert [placed.file for placed in drawing.supports] == ["heron/1.jpg", "heron/2.jpg"]
    assert drawing.lines[0].x1 == pytest.approx(drawing.query.x + 0.1 * drawing.query.width)


def test_tint_marks_what_speaks_for_each_side_in_the_part_that_was_seen() -> None:
    patches = [*random_patches("heron/0.jpg", 2), *random_patches("ibis/0.jpg", 2)]
    heron, ibis = drawings(patches, evidence=((1.0, -0.5), (0.1, -0.1)), transform=Transform(size=(224, 224)))
    (cell,), (other,) = heron.heat, ibis.heat  # the faint cells are left out
    query = heron.query
    # of a photo twice as wide as high the middle half was seen, cut into 2 x 2 cells
    assert (cell.x, cell.y) == pytest.approx((query.x + query.width / 4, query.y))
    assert (cell.width, cell.height) == pytest.approx((query.width / 4, query.height / 2))
    assert other.x == pytest.approx(query.x + query.width / 2)
    assert 0 < other.opacity < cell.opacity < 1
    assert drawings(patches)[0].heat == ()


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
