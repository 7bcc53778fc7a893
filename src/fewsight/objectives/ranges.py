"""Checks of scalar settings; each error names the setting and its value."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from fewsight.errors import InvalidInput

__all__ = ["check_choice", "check_positive", "check_within", "whole", "whole_pair"]


def check_positive(**values: float) -> None:
    """Raise `InvalidInput` unless each value is a finite number above 0.

    >>> check_positive(temperature=0.1)
    """
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise InvalidInput(f"{name} is {value}; expected a finite number above 0.")


def check_within(low: float, high: float, **values: float) -> None:
    """Raise `InvalidInput` unless `low <= value <= high`; NaN lies nowhere.

    >>> check_within(0, 1, momentum=0.9)
    """
    for name, value in values.items():
        if not low <= value <= high:
            raise InvalidInput(f"{name} is {value}; expected a number from {low} to {high}.")


def check_settings(settings: object, *, positive: Sequence[str] = (), shares: Sequence[str] = ()) -> None:
    """Check fields of a settings dataclass: those above 0, and those from 0 to 1."""
    check_positive(**{name: getattr(settings, name) for name in positive})
    check_within(0, 1, **{name: getattr(settings, name) for name in shares})


def check_choice(choices: Collection[str], **values: str) -> None:
    """Raise `InvalidInput` unless each value is one of the words.

    >>> check_choice(("l1", "l2"), norm="l1")
    """
    for name, value in values.items():
        if value not in choices:
            raise InvalidInput(f"{name} is {value!r}; expected one of {', '.join(choices)}.")


def whole(value: float, name: str) -> int:
    """`value` as an int; raise `InvalidInput` unless it is a whole number of 1 or more.

    >>> whole(16.0, "patch_size")
    16
    """
    if not math.isfinite(value) or int(value) != value or value < 1:
        raise InvalidInput(f"{name} is {value}; expected a whole number of 1 or more.")
    return int(value)


def whole_pair(size: Sequence[int], name: str) -> tuple[int, int]:
    """(height, width) of whole numbers; raise `InvalidInput` for anything else."""
    if len(size) != 2:
        raise InvalidInput(f"{name} is {size}; expected (height, width).")
    return whole(size[0], name), whole(size[1], name)
