"""Class names that look the same and are not."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

__all__ = ["name_clashes", "same_to_the_eye"]


def same_to_the_eye(name: str) -> str:
    """A key that is equal for names that differ by case, Unicode form or spaces only.

    >>> same_to_the_eye("Caf\\u00e9 ") == same_to_the_eye("cafe\\u0301")
    True
    """
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def name_clashes(names: Iterable[str]) -> tuple[str, ...]:
    """A warning for each set of names that are the same to the eye, with all spellings."""
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(same_to_the_eye(name), []).append(name)
    return tuple(
        f"classes {' and '.join(ascii(name) if _hidden(name, same) else repr(name) for name in same)} differ only by "
        "case, spaces or Unicode form: one class or several? Use one spelling if one."
        for same in spellings.values()
        if len(same) > 1
    )


def _hidden(name: str, same: list[str]) -> bool:
    """Whether the difference to another spelling shows in code points only."""
    composed = unicodedata.normalize("NFKC", name)
    return any(other != name and unicodedata.normalize("NFKC", other) == composed for other in same)
