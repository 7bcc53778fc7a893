"""Walking: what is a photo, in which order; suffixes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewsight.data.walk import canonical_suffix, list_folder, suffix_of, walk_folders


def test_folders_before_what_is_in_them_in_natural_order(tmp_path, write):
    for name in ("b/2.jpg", "b/x/1.jpg", "a10/1.jpg", "a9/1.jpg", "0.jpg"):
        write(tmp_path / name)
    assert [folder.path for folder in walk_folders(str(tmp_path), Counter())] == [
        b"",
        b"a9",
        b"a10",
        b"b",
        b"b/x",
    ]
    skipped = walk_folders(str(tmp_path), Counter(), skip=lambda path: path == b"b")
    assert [folder.path for folder in skipped] == [b"", b"a9", b"a10"]
    assert [folder.path for folder in walk_folders(str(tmp_path), Counter(), start=b"b")] == [b"b", b"b/x"]


def test_a_folder_that_cannot_be_read_is_counted(tmp_path):
    passed: Counter[str] = Counter()
    assert list_folder(str(tmp_path), b"gone", passed).photos == ()
    assert sum(passed.values()) == 1


@given(
    st.text(st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1, max_size=12)
)
def test_suffixes_are_those_of_pathlib(name):
    expected = Path(name).suffix.lower()
    # pathlib of later versions takes a lone dot at the end for a suffix
    assert (
        suffix_of(name) == ("" if expected == "." else expected)
        or set(name) == {"."}
        or name.startswith("..")
    )
    assert suffix_of(f"a.b/{name}") == suffix_of(name)


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.JPEG", ".jpg"), (b"a.Tif", ".tiff"), ("a", "no suffix"), ("a.png", ".png")]
)
def test_suffixes_are_counted_under_one_name(name, suffix):
    assert canonical_suffix(name) == suffix
