"""Names and numbers as shown."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewsight.report.wording import TIE, counted, exact_name, kibibytes, percent, shown_name
from report.pages import HOSTILE_NAMES


@given(st.text(st.characters()))  # surrogates included
def test_shown_names_are_one_visible_line_of_utf8(name: str) -> None:
    shown = shown_name(name)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    assert not any(
        unicodedata.category(character) in ("Cc", "Cf", "Cs")
        for character in shown
        if character not in "\u200c\u200d"
    )


@given(st.text(st.characters()))
def test_exact_names_are_valid_text_and_leave_valid_text_alone(name: str) -> None:
    exact_name(name).encode("utf-8")
    valid = name.encode("utf-8", "replace").decode("utf-8")
    assert exact_name(valid) == valid


def test_letters_of_every_script_and_emoji_stay() -> None:
    for name in ("Störche 鸛 صورة हाथी 🦩👩‍🔬 'a' & <b>.jpg", "plain.jpg"):
        assert shown_name(name) == name


def test_bytes_and_marks_of_direction_are_spelled() -> None:
    assert shown_name("caf\udce9.jpg") == "caf\\xe9.jpg"
    assert shown_name("\u202egpj.exe") == "\\u202egpj.exe"
    assert shown_name("a\nb\u2028c") == "a\\nb\\u2028c"
    assert len({shown_name(name) for name in HOSTILE_NAMES}) == len(HOSTILE_NAMES)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (0.001, "under 1 %"),
        (0.5, "50 %"),
        (0.997, "over 99 %"),
        (1.0, "100 %"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_percent_says_all_or_nothing_only_when_it_is(share: float | None, text: str) -> None:
    assert percent(share).replace(TIE, " ") == text


def test_counts_and_sizes() -> None:
    assert counted(0, "photo") == "0 photos"
    assert kibibytes(10) == "1 KiB"
    assert kibibytes(5 * 2**19) == "2.5 MiB"
