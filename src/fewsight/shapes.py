"""Shape checks by axis letters: equal letters must have equal sizes across all arguments."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fewsight.errors import InvalidInput

__all__ = ["check_shapes"]


@lru_cache(maxsize=512)
def _letters(axes: str) -> tuple[str, ...]:
    return tuple(axes.split())


def check_shapes(**arguments: tuple[Any, str]) -> dict[str, int]:
    """Check tensors or arrays against axis letters and return the size of each letter.

    Each argument is `name=(tensor, "Q D")`. A letter that occurs twice must have one size; a number stands
    for itself; a leading `...` allows any axes in front.

    Raises:
        InvalidInput: a shape does not fit; the message names the argument, its shape and what was expected.

    >>> import numpy
    >>> check_shapes(queries=(numpy.zeros((4, 8)), "Q D"), supports=(numpy.zeros((5, 8)), "S D"))
    {'Q': 4, 'D': 8, 'S': 5}
    """
    sizes: dict[str, int] = {}
    for name, (tensor, axes) in arguments.items():
        letters = _letters(axes)
        try:
            shape = tuple(tensor.shape)
        except AttributeError:
            raise InvalidInput(
                f"{name} is a {type(tensor).__name__}; expected a tensor of shape [{axes}]."
            ) from None
        if letters and letters[0] == "...":
            letters = letters[1:]
            tail = shape[len(shape) - len(letters) :] if len(shape) >= len(letters) else None
        else:
            tail = shape if len(shape) == len(letters) else None
        if tail is None:
            raise InvalidInput(f"{name} has shape {list(shape)}; expected [{', '.join(axes.split())}].")
        for letter, size in zip(letters, tail, strict=True):
            expected = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            if size != expected:
                raise InvalidInput(
                    f"{name} has shape {list(shape)}; expected [{', '.join(axes.split())}]"
                    + (
                        ""
                        if letter.isdigit()
                        else f" with {letter} = {expected} as in the arguments before it"
                    )
                    + "."
                )
    return sizes
