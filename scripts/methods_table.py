"""Prints the table of methods for the README from `fewsight.names`; with `--check` fails where the README differs."""

from __future__ import annotations

import sys
from pathlib import Path

from fewsight.names import TABLES

README = Path(__file__).resolve().parents[1] / "README.md"
START, END = "<!-- methods: begin -->", "<!-- methods: end -->"


def table() -> str:
    """Markdown rows of every method in the table of names."""
    rows = ["| kind | name | what it does | source |", "|---|---|---|---|"]
    for kind, entries in TABLES.items():
        rows += [
            f"| {kind} | `{name}` | {entry.summary} | {entry.source} |" for name, entry in entries.items()
        ]
    return "\n".join(rows)


def replaced(text: str) -> str:
    """The README with its table made anew."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


def main(arguments: list[str]) -> int:
    """0 if the README's table is that of the names."""
    text = README.read_text(encoding="utf-8")
    wanted = replaced(text)
    if "--check" in arguments:
        if wanted != text:
            print(
                "README.md: the table of methods is not that of fewsight.names: run python scripts/methods_table.py"
            )
        return int(wanted != text)
    README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
