"""The report of a segmentation run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fewsight.errors import InvalidInput
from fewsight.predictions import SupportMatch
from fewsight.report.facts import RunFacts, SupportPhoto
from fewsight.report.segmentation import (
    Presence,
    SegmentedPhoto,
    presence_doubt,
    write_segmentation_report,
)
from fewsight.report.wording import shown_name
from report.chromium import Chromium
from report.pages import CLASSES, HOSTILE_NAMES, Reading, read_photo, support_photos


def photo(file: str, *probabilities: float, **more) -> SegmentedPhoto:
    presences = tuple(
        Presence(name, probability, probability >= 0.5, 0.2 if probability >= 0.5 else 0.0)
        for name, probability in zip(CLASSES, probabilities, strict=False)
    )
    nearest = (SupportMatch("heron/0.jpg", "heron", 0.9),)
    return SegmentedPhoto(file, more.pop("status", "ok"), presences=presences, nearest=nearest, **more)


def read_mask(kind: str, file: str) -> np.ndarray:
    labels = np.zeros((20, 30), dtype=np.uint8)
    labels[5:15, 5:15] = 1
    return labels


def written(path: Path, photos: list[SegmentedPhoto], **options) -> Reading:
    classes = options.pop("classes", CLASSES)
    options = {"support": support_photos(), "read_picture": read_photo, "read_mask": read_mask} | options
    write_segmentation_report(path / "report.html", photos, classes, **options)
    return Reading((path / "report.html").read_text(encoding="utf-8"))


def test_doubt_is_the_nearest_decision_to_the_threshold() -> None:
    assert presence_doubt(photo("a", 0.99, 0.5, 0.01)) == 1.0
    assert presence_doubt(photo("a", 1.0, 0.0)) == 0.0
    assert presence_doubt(photo("a")) == 1.0
    assert presence_doubt(photo("a", 0.6), threshold=0.2) == pytest.approx(0.5)
    assert presence_doubt(photo("a", 1.0, 0.3), threshold=1.0) == 1.0


def test_what_is_here_what_is_absent_and_who_answered(tmp_path: Path) -> None:
    photos = [
        photo("sure.jpg", 0.98, 0.03, truth=("heron",)),
        photo("doubt.jpg", 0.7, 0.45, truth=("heron", "ibis")),
        photo("none.jpg", 0.1, 0.1),
        SegmentedPhoto("empty.jpg", "unreadable", "empty"),
    ]
    page = written(tmp_path, photos, facts=RunFacts(title="Where", settings={"head": "cst"}))
    assert page.shown_cards() == ["r1", "r2", "r0"]
    words = " ".join(page.text.split())
    assert "absent: ibis 45 %" in words
    assert "20 % of the photo" in words
    assert "wrong: there is heron, ibis" in words
    assert "none of these" in words
    assert "empty.jpg" in words
    assert "heron: heron/0.jpg" in page.attributes("img", "title")
    # three photos, and the one support photo that cards show
    assert page.count("img", class_="mask") == 4
    assert [a["id"] for tag, a in page.tags if tag == "section"] == [
        "photos",
        "expectation",
        "counts",
        "trouble",
        "support",
        "run",
    ]


def test_limit_is_said(tmp_path: Path) -> None:
    page = written(tmp_path, [photo(f"{i}.jpg", 0.5 + i / 40) for i in range(20)], limit=4)
    assert page.shown_cards() == ["r0", "r1", "r2", "r3"]
    assert "Shown are the 4 most doubtful of 20 photos" in " ".join(page.text.split())


@pytest.mark.parametrize("photos", [[], [SegmentedPhoto("a", "unreadable")], [SegmentedPhoto("a", "ok")]])
def test_small_and_odd_runs(tmp_path: Path, photos: list[SegmentedPhoto]) -> None:
    page = written(tmp_path, photos, support=[], read_mask=lambda kind, file: None, classes=())
    assert page.count("section") >= 3


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_stay_text(tmp_path: Path, name: str) -> None:
    def page_of(file: str) -> Reading:
        presences = (Presence(file, 0.9, True, 0.1), Presence(file + "2", 0.1, False))
        rows = [
            SegmentedPhoto(
                file, "suspicious", file, presences, (SupportMatch(file, file, 1.0),), (file + "2",)
            )
        ]
        return written(
            tmp_path, rows, classes=(file, file + "2"), support=[SupportPhoto(file, (file,), file)]
        )

    hostile, plain = page_of(name), page_of("x")
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(a) for _, a in hostile.tags] == [sorted(a) for _, a in plain.tags]
    assert shown_name(name) in hostile.text


@pytest.mark.parametrize("options", [{"limit": 0}, {"threshold": 1.5}])
def test_wrong_arguments_are_named(tmp_path: Path, options: dict) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))):
        written(tmp_path, [photo("a", 0.9)], **options)


@pytest.mark.browser
@pytest.mark.slow
def test_filters_in_a_browser(chromium: Chromium, tmp_path: Path) -> None:
    written(tmp_path, [photo("a.jpg", 0.9, 0.9), photo("b.jpg", 0.9, 0.1), photo("c.jpg", 0.1, 0.1)])
    assert chromium.dom(tmp_path / "report.html", "#label=1").shown_cards() == ["r0"]
    assert chromium.dom(tmp_path / "report.html", "#masks=off&find=b.jpg").shown_cards() == ["r1"]
