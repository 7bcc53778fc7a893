"""The page itself: self-contained, strict, escaped, whole."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from fewsight.errors import FewsightError
from fewsight.report import page as page_module
from fewsight.report.page import Page, Section, Tile, render, render_page, write_page
from fewsight.report.wording import shown_name
from report.pages import HOSTILE_NAMES, Reading


def small_page(title: str = "A page") -> Page:
    body = render("run.html", facts={"command": "", "settings": {"seed": 0}, "licences": ()})
    return Page(
        title,
        [Section("one", "One", body, "A lead."), Section("two", "Two", body)],
        "A sentence.",
        [Tile("3", "things", "#one")],
    )


def test_sections_and_contents() -> None:
    reading = Reading(render_page(small_page()))
    assert reading.count("section") == 2
    assert {"#one", "#two"} <= set(reading.attributes("a", "href"))
    assert reading.count("h1") == 1
    ids = [value for tag, attributes in reading.tags for key, value in attributes.items() if key == "id"]
    assert len(ids) == len(set(ids))


def test_policy_allows_this_style_and_script_alone() -> None:
    text = render_page(small_page())
    reading = Reading(text)
    (policy,) = [
        a["content"] or ""
        for t, a in reading.tags
        if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        (content,) = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_nothing_is_fetched_and_no_attribute_carries_style_or_script() -> None:
    text = render_page(small_page())
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "url(" not in text
    for tag, attributes in Reading(text).tags:
        assert not any(name == "style" or name.startswith("on") for name in attributes), tag


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_text_stays_text_wherever_it_stands(name: str) -> None:
    hostile = Page(
        name,
        [Section("one", name, render("correct.html", facts={"correct_command": name}), name)],
        name,
        [Tile("1", name)],
        name,
    )
    plain = Page(
        "x",
        [Section("one", "x", render("correct.html", facts={"correct_command": "x"}), "x")],
        "x",
        [Tile("1", "x")],
        "x",
    )
    ours, theirs = Reading(render_page(hostile)), Reading(render_page(plain))
    assert [tag for tag, _ in ours.tags] == [tag for tag, _ in theirs.tags]
    assert ours.text.count(shown_name(name)) >= 5


def test_written_whole_and_size_told(tmp_path: Path) -> None:
    size = write_page(tmp_path / "deep" / "report.html", small_page("Störche 🦩"))
    assert (tmp_path / "deep" / "report.html").stat().st_size == size
    (tmp_path / "file").write_text("")
    with pytest.raises(FewsightError):
        write_page(tmp_path / "file" / "report.html", small_page())


def test_styles_and_scripts_cannot_end_their_element() -> None:
    for name in (*page_module.STYLES, *page_module.SCRIPTS):
        text = (page_module.TEMPLATES / name).read_text(encoding="utf-8").lower()
        assert "</" not in text
        assert "innerhtml" not in text
