"""Pages opened from disk in headless Chromium: filters, hostile names, the policy, ten thousand photos."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from fewsight.data.label_csv import read_label_file
from fewsight.predictions import Explanation, MatchedPatch, Prediction, Predictions, SupportMatch
from fewsight.report.facts import RunFacts
from fewsight.report.predictions import write_predictions_report
from fewsight.report.sections import MapFeatures
from fewsight.report.wording import shown_name
from report.chromium import Chromium
from report.pages import (
    CLASSES,
    HOSTILE_NAMES,
    answer,
    photo_bytes,
    predictions_of,
    read_photo,
    support_photos,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """24 answers from doubtful to sure, 4 rejected ones, a damaged one; every second of known truth."""
    rows = [
        answer(
            f"photo {i}.jpg",
            0.525 + i / 50,
            label=CLASSES[i % 3],
            runner_up=CLASSES[(i + 1) % 3],
            truth=(CLASSES[0],) if i % 2 else (),
        )
        for i in range(24)
    ]
    rows += [Prediction(f"far {i}.jpg", "rejected", novelty=float(i)) for i in range(4)]
    rows += [answer("damaged.jpg", 0.9, status="suspicious", note="grey below")]
    features = MapFeatures(
        np.random.default_rng(0).normal(size=(9, 5)), np.random.default_rng(1).normal(size=(29, 5))
    )
    path = tmp_path / "report.html"
    write_predictions_report(
        path, predictions_of(*rows), support=support_photos(), read_picture=read_photo, features=features
    )
    return path


@pytest.mark.parametrize(
    ("fragment", "count"),
    [
        ("", 29),
        ("#status=rejected", 4),
        ("#status=suspicious", 1),
        ("#label=0", 9),
        ("#label=0&right=yes", 4),
        ("#right=no", 8),
        ("#certainty=in%20doubt&status=ok", 9),
        ("#from=80&status=ok", 4),
        ("#find=GREY", 1),
        ("#find=photo%201", 11),
        ("#find=nothing", 0),
        ("#truth=0&label=1", 4),
        ("#label=1&find=photo&to=30", 2),
        ("#map", 29),
    ],
)
def test_filters_in_the_address(chromium: Chromium, page: Path, fragment: str, count: int) -> None:
    reading = chromium.dom(page, fragment)
    assert len(reading.shown_cards()) == count
    assert f"{count} photos" in reading.text or f"{count} of 29 photos" in reading.text
    (nothing,) = [a for tag, a in reading.tags if "data-none-left" in a]
    assert ("hidden" in nothing) == (count > 0)


def test_photos_beside_the_answers_are_filled_in(chromium: Chromium, tmp_path: Path) -> None:
    """Queries are blue and labelled photos red: red in the first screen can only come from cards."""
    colours = {"query": (20, 20, 230), "support": (230, 20, 20)}
    path = tmp_path / "report.html"
    write_predictions_report(
        path,
        predictions_of(*(answer(f"{i}.jpg", 0.6) for i in range(40))),
        support=support_photos(),
        read_picture=lambda kind, file: Image.new("RGB", (60, 60), colours[kind]),
    )
    pixels = np.asarray(chromium.screenshot(path)).astype(int)
    for colour in colours.values():
        # lossy WebP moves a colour by some levels; each of several photos has over 1,000 pixels
        assert (np.abs(pixels - colour).max(axis=-1) < 16).sum() > 5000


def test_a_link_to_one_photo_opens_it(chromium: Chromium, tmp_path: Path) -> None:
    patches = (MatchedPatch((0.5, 0.5), "heron/0.jpg", (0.2, 0.2), 1.0),)
    reasons = Explanation("heron", "ibis", (SupportMatch("heron/0.jpg", "heron", 0.9),), (), patches)
    rows = [answer(f"{i}.jpg", 0.5 + i / 200, reasons=reasons) for i in range(99)]
    path = tmp_path / "report.html"
    write_predictions_report(path, predictions_of(*rows), support=support_photos(), read_picture=read_photo)
    folded, single, everything = (chromium.dom(path, fragment) for fragment in ("", "#r98", "#all=1"))
    assert len(folded.shown_cards()) == 60
    assert single.shown_cards() == [*folded.shown_cards(), "r98"]
    assert sum("open" in a for tag, a in single.tags if tag == "details") == 1
    assert [value[:11] for value in single.attributes("image", "href")] == ["data:image/"] * 2
    assert len(everything.shown_cards()) == 99


def test_corrections_become_a_label_file(chromium: Chromium, tmp_path: Path) -> None:
    """Clicks are made by a script that only a page without its policy lets run."""
    files = ['say "heron", twice.jpg', "two\r\nlines.jpg", "caf\\xe9.jpg", "صورة; 🦩.jpg", "unchecked.jpg"]
    rows = [answer(file, 0.5 + index / 10) for index, file in enumerate(files)]
    path = tmp_path / "report.html"
    write_predictions_report(path, predictions_of(*rows), support=support_photos(), read_picture=read_photo)
    clicks = """
      const correct = [...document.querySelectorAll(".card .correct")];
      const say = (row, text) => { const input = row.querySelector("input"); input.value = text;
        input.dispatchEvent(new Event("change")); };
      correct[0].querySelector("button").click();
      say(correct[1], " egret, white ");
      correct[2].querySelector("button").click(); say(correct[2], "ibis");
      correct[3].querySelector("button").click();
      correct[4].querySelector("button").click(); correct[4].querySelector("button").click();
    """
    text = path.read_text(encoding="utf-8").replace("Content-Security-Policy", "x")
    path.write_text(
        text.replace("</body>", f"<script>{clicks}</script></body>"), encoding="utf-8", newline=""
    )
    reading = chromium.dom(path)
    assert "4 photos checked" in reading.text
    (link,) = [value for value in reading.attributes("a", "href") if value.startswith("data:text/csv")]
    (tmp_path / "corrected.csv").write_bytes(unquote_to_bytes(link.split(",", 1)[1]))
    found = read_label_file(tmp_path / "corrected.csv")
    assert [(row.image, row.labels) for row in found.rows] == [
        (files[0], ("heron",)),
        (files[1], ("egret, white",)),
        (files[2], ("ibis",)),
        (files[3], ("heron",)),
    ]


def hostile_page(path: Path) -> Path:
    rows = [
        answer(name, 0.6, label=name + "A", runner_up="heron", note=name, truth=(name,))
        for name in HOSTILE_NAMES
    ]
    rows += [Prediction(name, "unreadable", name) for name in HOSTILE_NAMES]
    classes = (*(name + "A" for name in HOSTILE_NAMES), "heron")
    features = MapFeatures(
        np.random.default_rng(0).normal(size=(len(classes), 5)),
        np.random.default_rng(1).normal(size=(len(rows), 5)),
    )
    write_predictions_report(
        path,
        Predictions(tuple(rows), classes),
        support=support_photos(classes, 1),
        read_picture=read_photo,
        features=features,
        facts=RunFacts(title=HOSTILE_NAMES[0]),
    )
    return path


def test_hostile_names_stay_text_in_a_browser(chromium: Chromium, tmp_path: Path) -> None:
    reading = chromium.dom(hostile_page(tmp_path / "report.html"), "#find=" + "%3Cscript%3E")
    assert sorted(reading.attributes("script", "type")) == ["application/json"]
    assert reading.count("script") == 2
    assert reading.count("style") == 1
    (title,) = [text for text in reading.text.splitlines() if text.endswith("· fewsight")]
    assert title == shown_name(HOSTILE_NAMES[0]) + " · fewsight"
    for name in HOSTILE_NAMES:
        assert shown_name(name) in reading.text
    assert len(reading.shown_cards()) == 1
    assert not any(attribute.startswith("on") for _, attributes in reading.tags for attribute in attributes)


def test_the_policy_stops_script_style_and_requests_that_get_in(chromium: Chromium, page: Path) -> None:
    assert chromium.dom(page).count("html", **{"data-owned": "yes"}) == 0
    attack = (
        "<script>document.documentElement.dataset.owned='yes'</script>"
        "<img src=x onerror=\"document.documentElement.dataset.owned='yes'\">"
        "<style>.card { display: none }</style>"
    )
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</main>", attack + "</main>"), encoding="utf-8")
    assert chromium.dom(page).count("html", **{"data-owned": "yes"}) == 0
    # the same attack works where there is no policy: the test can fail
    page.write_text(
        page.read_text(encoding="utf-8").replace("Content-Security-Policy", "x"), encoding="utf-8"
    )
    assert chromium.dom(page).count("html", **{"data-owned": "yes"}) == 1


@pytest.mark.parametrize(
    ("size", "fragment"), [((1280, 900), ""), ((500, 900), ""), ((1280, 900), "#theme=dark")]
)
def test_it_is_drawn(chromium: Chromium, page: Path, size: tuple[int, int], fragment: str) -> None:
    pixels = np.asarray(chromium.screenshot(page, fragment, size=size))
    assert pixels.shape[:2] == size[::-1]
    # header, cards and photos: many colours, and dark where dark was asked for
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
    paper = pixels[-1, 3].mean()
    assert (paper < 60) == (fragment == "#theme=dark")


def test_nothing_is_wider_than_a_phone(chromium: Chromium, page: Path) -> None:
    """Scrolled fully to the right, a page that fits looks the same as before: its last column is paper."""
    pixels = np.asarray(chromium.screenshot(page, size=(500, 3000)))
    assert (pixels[1500:, -4:].std(axis=(0, 1)) < 8).all()


def test_ten_thousand_photos(chromium: Chromium, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    classes = tuple(f"class {index}" for index in range(20))
    rows = []
    for index, (score, label) in enumerate(
        zip(generator.uniform(0.5, 1, 10_000), generator.integers(20, size=10_000), strict=True)
    ):
        name, other = classes[label], classes[(label + 1) % 20]
        nearest = tuple(
            SupportMatch(f"{who}/{shot}.jpg", who, 0.5) for who in (name, other) for shot in range(3)
        )
        row = answer(
            f"folder/{index:05d}.jpg",
            float(score),
            label=name,
            runner_up=other,
            nearest=nearest,
            truth=(name,),
        )
        rows.append(Prediction(row.file, "unreadable", "truncated") if index % 100 == 99 else row)
    photos = [photo_bytes(index, (96, 72)) for index in range(50)]
    features = MapFeatures(generator.normal(size=(100, 8)), generator.normal(size=(10_000, 8)))
    path = tmp_path / "report.html"
    report = write_predictions_report(
        path,
        Predictions(tuple(rows), classes),
        support=support_photos(classes, 5),
        read_picture=lambda kind, file: photos[sum(map(ord, file)) % 50],
        features=features,
    )
    assert (report.shown, report.judged) == (2000, 9900)
    assert report.size < 25 * 2**20
    reading = chromium.dom(path, "#all=1")
    assert len(reading.shown_cards()) == 2000
    text = " ".join(reading.text.split())
    assert "Shown are the 2,000 most doubtful of 9,900 photos" in text
    assert "The other 7,900 are in the counts below" in text
    assert "The first 200 of 100" not in text
    assert len(chromium.dom(path, "#find=folder/0").shown_cards()) == 60
