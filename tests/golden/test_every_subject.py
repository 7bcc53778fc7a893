"""Every golden subject is loaded by a test, or stands on a list of open ones that may only shrink."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import need, shared_folder

STILL_OPEN: frozenset[str] = frozenset()


def loaded_subjects() -> set[str]:
    here = Path(__file__).parent
    text = "\n".join(path.read_text(encoding="utf-8") for path in here.glob("test_*.py"))
    return set(re.findall(r'cases\(\s*"(\w+)"', text))


def test_every_subject_is_loaded_or_open() -> None:
    folder = need(shared_folder() / "golden")
    subjects = {path.stem for path in folder.glob("*.npz")}
    assert subjects
    loaded = loaded_subjects()
    assert subjects - loaded - STILL_OPEN == set()
    assert set(STILL_OPEN) <= subjects - loaded, "a subject on the open list has a test now: take it off"
