"""Every name leads somewhere, public names are those that were agreed on, and the README tells the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fewsight
from fewsight.errors import FewsightError, InvalidInput
from fewsight.names import PUBLIC, TABLES, choices, load, resolve

REPOSITORY = Path(__file__).resolve().parents[1]
AGREED = (REPOSITORY / "tests" / "public_names.txt").read_text(encoding="utf-8").split()


def test_public_names_are_the_agreed_ones() -> None:
    assert sorted(fewsight.__all__) == sorted(AGREED), "edit tests/public_names.txt in the same change"


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_names_load(name: str) -> None:
    assert callable(getattr(fewsight, name))


@pytest.mark.parametrize(("table", "name"), [(table, name) for table in TABLES for name in TABLES[table]])
def test_every_entry_leads_to_something_documented(table: str, name: str) -> None:
    found = load(TABLES[table][name].target)
    assert found.__doc__
    assert resolve(table, name) is found


def test_unknown_names_are_told_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="Did you mean prototypes"):
        resolve("heads", "prototype")
    with pytest.raises(InvalidInput, match="Choose one of"):
        resolve("heads", "zzz")
    assert choices("heads")[0] == "prototypes"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fewsight.nothing  # noqa: B018


def test_importing_fewsight_and_its_command_line_loads_no_torch() -> None:
    script = (
        "import sys, fewsight, fewsight.cli.main; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_errors_are_a_family() -> None:
    for name in fewsight.errors.__all__:
        assert issubclass(getattr(fewsight.errors, name), FewsightError)
    assert issubclass(InvalidInput, ValueError)


def test_readme_has_the_table_of_names() -> None:
    script = REPOSITORY / "scripts" / "methods_table.py"
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0
