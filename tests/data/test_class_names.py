"""Names that look the same."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from fewsight.data.class_names import name_clashes, same_to_the_eye


def test_each_clash_once_with_all_spellings():
    warnings = name_clashes(["Cat", "dog", "cat ", "CAT", "fox"])
    assert len(warnings) == 1
    assert all(spelling in warnings[0] for spelling in ("'Cat'", "'cat '", "'CAT'"))
    assert name_clashes(["cat", "cats"]) == ()


def test_forms_that_print_alike_are_shown_by_code_points():
    (warning,) = name_clashes(["caf\u00e9", "cafe\u0301"])
    assert "'caf\\xe9'" in warning
    assert "'cafe\\u0301'" in warning


@given(st.text(max_size=20))
def test_form_case_and_spaces_do_not_matter(name):
    assert same_to_the_eye(f" {unicodedata.normalize('NFD', name)} ") == same_to_the_eye(name)
