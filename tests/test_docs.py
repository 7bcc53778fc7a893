"""The Python examples of the documentation and the README run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fewsight.cli.main import VERBS

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted([*(REPOSITORY / "docs").rglob("*.md"), REPOSITORY / "README.md"])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


EXAMPLES = [(page, text) for page in PAGES for text in blocks(page, "python") if page.name != "README.md"]


@pytest.mark.parametrize(("page", "text"), EXAMPLES, ids=lambda value: getattr(value, "name", "")[:20])
def test_python_examples_run(page: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(text, str(page), "exec"), {})


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_documentation_exist(page: Path) -> None:
    for text in blocks(page, "sh"):
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["fewsight"]:
                assert words[1] in VERBS, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_hold_no_placeholder(page: Path) -> None:
    assert not re.findall(r"\b[A-Z]{3,}_TABLE\b", page.read_text(encoding="utf-8"))
