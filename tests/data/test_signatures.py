"""Formats by content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewsight.data.signatures import FORMATS, IMAGE_SUFFIXES, detect_format, is_image_head
from fewsight.errors import UnreadableImage


@pytest.mark.parametrize("name", list(FORMATS))
def test_what_pillow_writes_is_known(name, picture, encoded):
    assert detect_format(encoded(picture(), name.upper())[:64]) == name


@given(st.binary(max_size=64))
def test_any_head_is_an_image_or_a_reason(head):
    if is_image_head(head):
        assert detect_format(head) in FORMATS
    else:
        with pytest.raises(UnreadableImage):
            detect_format(head)


def test_suffixes_are_lower_case_with_a_dot():
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)
    assert {".jpg", ".heic", ".svg", ".nef"} <= IMAGE_SUFFIXES
