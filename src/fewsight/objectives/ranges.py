"""Checks of scalar settings; each error names the setting and its value."""

from __future__ import annotations

import math
from collections.abc import Collection

from fewsight.errors import InvalidInput

__all__ = ["check_choice", "check_positive", "check_within"]


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


def check_choice(choices: Collection[str], **values: str) -> None:
    """Raise `InvalidInput` unless each value is one of the words.

    >>> check_choice(("l1", "l2"), norm="l1")
    """
    for name, value in values.items():
        if value not in choices:
            raise InvalidInput(f"{name} is {value!r}; expected one of {', '.join(choices)}.")
