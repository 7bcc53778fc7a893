"""Names as text: without loss, and in an order that counts."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from fewsight.data.file_names import display_name, escaped, natural_key, parse_display_name


@given(st.binary(min_size=1, max_size=60))
def test_every_name_comes_back(raw):
    text = display_name(raw)
    text.encode("utf-8")  # any file can hold it
    assert (parse_display_name(text) if escaped(raw) else text.encode()) == raw


def test_utf8_names_stand_as_they_are():
    for name in ("a\\x41.jpg", "日本/ñ.jpg", "a\nb\"'<script>,;.jpg"):
        assert display_name(name) == name
        assert not escaped(name)


def test_other_bytes_are_escaped():
    assert display_name(b"a\\\xff\xc3") == "a\\\\\\xff\\xc3"
    assert display_name(os.fsdecode(b"\xe9")) == "\\xe9"
    assert escaped(b"\xe9")


def test_the_order_counts():
    names = ["img10", "img9", "img1", "IMG2", "a", "img1a", "img01", "9", "10"]
    assert sorted(names, key=natural_key) == [
        "9",
        "10",
        "IMG2",
        "a",
        "img01",
        "img1",
        "img1a",
        "img9",
        "img10",
    ]


@given(st.lists(st.text(max_size=12), max_size=12))
def test_the_order_is_total_and_does_not_depend_on_the_input_order(names):
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


def test_endless_numbers():
    assert natural_key("9" * 10_000) > natural_key("8" * 10_000)
