"""What people give as labels: any hashable names, one or several a photo; and how they stand in a model folder."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.errors import InvalidInput

__all__ = ["as_plain", "class_array", "from_plain", "label_sets", "membership"]


def label_sets(y: Iterable[Any]) -> tuple[list[tuple[Hashable, ...]], bool]:
    """Each photo's labels as a tuple, and whether any photo was given a list or set (several labels).

    A tuple is one label, since it can be a name; a list, set or frozenset holds several.

    Raises:
        InvalidInput: a photo has no label, or a label cannot be a name (NaN, or not hashable).

    >>> label_sets(["cat", ["cat", "dog"]])
    ([('cat',), ('cat', 'dog')], True)
    """
    several, rows = False, []
    for index, entry in enumerate(y.tolist() if isinstance(y, numpy.ndarray) else y):
        many = isinstance(entry, (list, set, frozenset))
        several |= many
        labels = tuple(dict.fromkeys(entry)) if many else (entry,)
        if not labels:
            raise InvalidInput(f"y[{index}] is empty; give each photo at least one label.")
        for label in labels:
            if not isinstance(label, Hashable) or label != label or label is None:
                raise InvalidInput(
                    f"y[{index}] holds {label!r}, which cannot name a class; use text or numbers."
                )
        rows.append(labels)
    return rows, several


def class_array(labels: Iterable[Hashable]) -> NDArray[Any]:
    """The distinct labels, sorted; labels of different kinds by kind, then as they read.

    >>> class_array(["b", "a", "b"]).tolist()
    ['a', 'b']
    """
    distinct = list(dict.fromkeys(labels))
    try:
        ordered = sorted(distinct)  # type: ignore[type-var]
    except TypeError:
        ordered = sorted(distinct, key=lambda label: (type(label).__name__, repr(label)))
    if len({type(label) for label in ordered}) == 1 and isinstance(ordered[0], (str, int, float, bool)):
        array = numpy.array(ordered)
        if array.tolist() == ordered:  # a trailing NUL, or an integer beyond 64 bits, does not survive
            return array
    array = numpy.empty(len(ordered), dtype=object)
    array[:] = ordered
    return array


def membership(rows: Sequence[tuple[Hashable, ...]], classes: NDArray[Any]) -> Tensor:
    """Bool `[S, K]`: which of `classes` each row holds.

    Raises:
        InvalidInput: a label is not among the classes.
    """
    column = {label: index for index, label in enumerate(classes.tolist())}
    result = torch.zeros(len(rows), len(column), dtype=torch.bool)
    for row, labels in enumerate(rows):
        for label in labels:
            if label not in column:
                raise InvalidInput(f"{label!r} is not among the {len(column)} classes.")
            result[row, column[label]] = True
    return result


def as_plain(classes: NDArray[Any]) -> list[str | int | float | bool]:
    """Class labels for JSON.

    Raises:
        InvalidInput: a label is neither text nor a number.
    """
    plain = classes.tolist()
    for label in plain:
        if not isinstance(label, (str, int, float, bool)):
            raise InvalidInput(
                f"class {label!r} is a {type(label).__name__} and cannot be saved; use text or numbers as labels."
            )
    return plain


def from_plain(labels: Sequence[Any]) -> NDArray[Any]:
    """The inverse of `as_plain`, in the same order.

    Raises:
        InvalidInput: there is none, two are equal, or one is neither text nor a number.
    """
    if not labels or not all(isinstance(label, (str, int, float, bool)) for label in labels):
        raise InvalidInput("classes is not a list of text or numbers.")
    if len(set(labels)) != len(labels):
        raise InvalidInput("classes holds a label twice.")
    classes = class_array(labels)
    if classes.tolist() != list(labels):
        raise InvalidInput("classes is not sorted.")
    return classes
