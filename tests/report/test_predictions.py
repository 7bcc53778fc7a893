"""The report of a prediction run: what it shows, what it leaves out, what it escapes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fewsight.errors import InvalidInput
from fewsight.predictions import Explanation, MatchedPatch, Prediction, Predictions, SupportMatch
from fewsight.report.facts import Estimate, Licence, RunFacts, SupportPhoto
from fewsight.report.predictions import shown_rows, write_predictions_report
from fewsight.report.sections import MapFeatures
from fewsight.report.wording import shown_name
from report.pages import HOSTILE_NAMES, Reading, answer, predictions_of, read_photo, support_photos

FACTS = RunFacts(
    title="Birds",
    expected=Estimate(0.91, 0.84, 0.95, 30),
    measured=Estimate(0.8, 0.7, 0.9, 40),
    expected_by_group={"station 1": Estimate(0.5, 0.3, 0.7, 9)},
    remarks=["two photos are the same"],
    command="fewsight predict labelled pile --out run",
    correct_command="fewsight predict run/predictions.csv pile --out run2",
    settings={"seed": 17, "head": "prototypes"},
    licences=[Licence("bundled backbone", "Apache-2.0")],
)


def mixed_rows() -> list[Prediction]:
    """Each status, with and without truth."""
    return [
        answer("sure.jpg", 0.98, truth=("heron",)),
        answer("doubtful.jpg", 0.52, truth=("ibis",)),
        answer("damaged.jpg", 0.8, status="suspicious", note="the lower third is grey"),
        Prediction(
            "far.jpg",
            "rejected",
            novelty=2.0,
            nearest=(SupportMatch("ibis/2.jpg", "ibis", 0.1),),
            truth=("goose",),
        ),
        Prediction("empty.jpg", "unreadable", "empty"),
        Prediction("huge.png", "refused", "too many pixels"),
        Prediction("again.jpg", "duplicate", "the same as heron/0.jpg"),
    ]


def written(path: Path, predictions: Predictions, **options) -> Reading:
    options = {"support": support_photos(), "read_picture": read_photo, "facts": FACTS} | options
    write_predictions_report(path / "report.html", predictions, **options)
    return Reading((path / "report.html").read_text(encoding="utf-8"))


def test_every_part_is_there(tmp_path: Path) -> None:
    rows = mixed_rows()
    features = MapFeatures(
        np.random.default_rng(0).normal(size=(9, 6)), np.random.default_rng(1).normal(size=(7, 6))
    )
    page = written(tmp_path, predictions_of(*rows), features=features)
    anchors = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert anchors == [
        "photos",
        "expectation",
        "counts",
        "map",
        "truth",
        "trouble",
        "support",
        "correct",
        "run",
    ]
    for row in rows:
        assert row.file in page.text
        assert row.note in page.text
    for words in (
        "Birds",
        "91 of 100",
        "station 1",
        "Apache-2.0",
        "run/predictions.csv",
        "prototypes",
        "two photos are the same",
    ):
        assert words in page.text
    assert page.count("circle", class_="point", **{"data-row": "r0"}) == 1
    assert len([value for value in page.attributes("path", "data-file") if value]) == 9


def test_cards_come_in_the_order_of_doubt_with_both_kinds_of_witness(tmp_path: Path) -> None:
    rows = mixed_rows()
    page = written(tmp_path, predictions_of(*rows))
    assert page.shown_cards() == [f"r{index}" for index in shown_rows(rows)]
    assert page.shown_cards()[-1] == "r0"
    titles = page.attributes("img", "title")
    assert "heron: heron/0.jpg" in titles
    assert "ibis: ibis/1.jpg" in titles


def test_explanations_go_before_the_nearest_photos_and_are_drawn(tmp_path: Path) -> None:
    reasons = Explanation(
        "heron",
        "ibis",
        (SupportMatch("heron/2.jpg", "heron", 0.9),),
        (SupportMatch("ibis/2.jpg", "ibis", 0.7),),
        (MatchedPatch((0.2, 0.2), "heron/2.jpg", (0.8, 0.8), 0.9),),
        (MatchedPatch((0.4, 0.2), "ibis/2.jpg", (0.1, 0.8), 0.2),),
    )
    page = written(tmp_path, predictions_of(answer("a.jpg", 0.5, reasons=reasons)))
    assert {"heron: heron/2.jpg", "ibis: ibis/2.jpg"} <= set(page.attributes("img", "title"))
    assert "heron: heron/0.jpg" not in page.attributes("img", "title")
    assert page.count("figure", class_="matches") == 2
    assert "What speaks for heron" in page.text
    assert "What would speak for ibis" in page.text


def test_every_copied_photo_stands_in_the_page_once(tmp_path: Path) -> None:
    page = written(tmp_path, predictions_of(*mixed_rows()))
    pictures = [a for tag, a in page.tags if tag == "img" and (a.get("src") or "").startswith("data:")]
    ids = [a["id"] for a in pictures]
    assert len(ids) == len(set(ids))
    asked = page.attributes("img", "data-picture") + page.attributes("image", "data-picture")
    assert asked
    assert set(asked) <= set(ids)


def test_beyond_the_limit_photos_are_counted_and_it_says_so(tmp_path: Path) -> None:
    rows = [answer(f"{index}.jpg", 0.5 + index / 100) for index in range(40)]
    page = written(tmp_path, predictions_of(*rows), limit=15)
    assert page.shown_cards() == [f"r{index}" for index in range(15)]
    assert "Shown are the 15 most doubtful of 40 photos" in " ".join(page.text.split())
    assert "39.jpg" not in page.text
    assert "40 photos compared with 9 labelled photos" in page.text


def test_pictures_are_read_for_shown_photos_only(tmp_path: Path) -> None:
    read = []
    rows = [answer(f"{index}.jpg", 0.5 + index / 100) for index in range(40)]
    written(
        tmp_path,
        predictions_of(*rows),
        limit=5,
        read_picture=lambda kind, file: read.append((kind, file)) or read_photo(kind, file),
    )
    assert sorted(file for kind, file in read if kind == "query") == [f"{index}.jpg" for index in range(5)]
    assert len(read) == len(set(read))


def test_support_photos_that_speak_are_shown_even_if_there_are_many(tmp_path: Path) -> None:
    support = [SupportPhoto(f"heron/{index}.jpg", ("heron",)) for index in range(1500)]
    support += [SupportPhoto("ibis/1.jpg", ("ibis",))]
    nearest = (SupportMatch("heron/1499.jpg", "heron", 0.9), SupportMatch("ibis/1.jpg", "ibis", 0.8))
    page = written(tmp_path, predictions_of(answer("a.jpg", 0.6, nearest=nearest)), support=support)
    alts = page.attributes("img", "alt")
    assert {"heron/1499.jpg", "ibis/1.jpg"} <= set(alts)
    assert "501 labelled photos not shown here" in page.text


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_stay_text(tmp_path: Path, name: str) -> None:
    def page_of(file: str, label: str, other: str, note: str) -> Reading:
        rows = [
            answer(
                file, 0.6, label=label, runner_up=other, note=note, truth=(other,), label_set=(label, other)
            ),
            Prediction(file + "2", "unreadable", note),
            Prediction(file + "3", "duplicate", note),
            Prediction(file + "4", "rejected", note, truth=(file,)),
        ]
        support = [
            SupportPhoto(f"{label}/0.jpg", (label, other), note),
            SupportPhoto(f"{other}/1.jpg", (other,)),
        ]
        facts = dataclasses.replace(
            FACTS, title=file, remarks=[note], settings={file: note}, licences=[Licence(file, label, note)]
        )
        features = MapFeatures(np.eye(2), np.eye(4)[:, :2])
        predictions = Predictions(tuple(rows), (label, other))
        return written(tmp_path, predictions, support=support, facts=facts, features=features)

    hostile, plain = page_of(name, name + "A", name + "B", name), page_of("x", "xA", "xB", "x")
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(attributes) for _, attributes in hostile.tags] == [
        sorted(attributes) for _, attributes in plain.tags
    ]
    assert hostile.text.count(shown_name(name)) >= plain.text.count("xA")


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [Prediction("a.jpg", "unreadable", "empty")],
        [Prediction("a.jpg", "rejected")],
        [Prediction("a.jpg", "ok", label="heron", score=1.0)],
        [Prediction("a.jpg", "ok", label="heron")],
        [Prediction("a.jpg", "ok", label="goose", score=0.4, truth=("swan",))],
    ],
    ids=["none", "unreadable", "rejected", "no runner-up", "no score", "unknown classes"],
)
def test_small_and_odd_runs(tmp_path: Path, rows: list[Prediction]) -> None:
    page = written(
        tmp_path,
        predictions_of(*rows),
        facts=None,
        features=MapFeatures(np.zeros((9, 2)), np.zeros((len(rows), 2))),
    )
    assert page.count("section") >= 4
    assert "Not judged." in page.text


def test_no_classes_no_support_no_pictures(tmp_path: Path) -> None:
    rows = predictions_of(answer("a.jpg", 0.7), classes=())
    page = written(tmp_path, rows, support=[], read_picture=lambda kind, file: None)
    assert page.count("li", class_="card") == 1
    assert not any("src" in attributes for tag, attributes in page.tags if tag == "img")
    assert page.count("span", class_="blank") >= 1


def test_many_classes_have_mix_ups_in_place_of_a_table(tmp_path: Path) -> None:
    classes = tuple(f"class {index:03d}" for index in range(60))
    rows = [
        answer(f"{i}.jpg", 0.8, label=name, runner_up=classes[0], truth=(classes[i // 2],))
        for i, name in enumerate(classes)
    ]
    page = written(tmp_path, Predictions(tuple(rows), classes), support=support_photos(classes, 1))
    assert page.count("table", class_="matrix") == 0
    assert "called class 001" in page.text


def test_several_labels_in_one_photo(tmp_path: Path) -> None:
    page = written(tmp_path, predictions_of(answer("a.jpg", 0.7, labels=("heron", "stork"))))
    assert "heron + stork" in page.text
    (labels,) = [a["data-labels"] for tag, a in page.tags if tag == "li" and a.get("id") == "r0"]
    assert (labels or "").split() == ["0", "2"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"limit": 0}, "limit"),
        ({"features": MapFeatures(np.zeros((2, 3)), np.zeros((7, 3)))}, "features.support"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, options: dict, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        written(tmp_path, predictions_of(*mixed_rows()), **options)
    assert not (tmp_path / "report.html").exists()
