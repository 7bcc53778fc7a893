r"""File names as text for people and files, without loss, and their natural order.

A name that is UTF-8 stands as it is. In one that is not, each byte that does not fit stands as `\xNN` and a backslash
as `\\`, so that the text names exactly one file.
"""

from __future__ import annotations

import os
import re
from typing import Any

from fewsight.errors import InvalidInput

__all__ = ["display_name", "escaped", "natural_key", "parse_display_name"]

_NUMBER = re.compile(r"([0-9]+)")
_ESCAPE = re.compile(rb"\\(\\|x[0-9A-Fa-f]{2})")


def display_name(name: bytes | str | os.PathLike[str]) -> str:
    r"""The name as text that any file or page can hold.

    >>> display_name(b"caf\xe9\\1.jpg")
    'caf\\xe9\\\\1.jpg'
    >>> display_name("a\\b.jpg")
    'a\\b.jpg'
    """
    raw = name if isinstance(name, bytes) else os.fsencode(name)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def escaped(name: bytes | str | os.PathLike[str]) -> bool:
    """Whether `display_name` had to escape bytes that are not UTF-8 (to be said in the row's note)."""
    try:
        (name if isinstance(name, bytes) else os.fsencode(name)).decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def parse_display_name(text: str) -> bytes:
    r"""The bytes that an escaped `display_name` stands for.

    Text alone does not say whether it was escaped: ask for a file named literally so first.

    >>> parse_display_name("caf\\xe9\\\\1.jpg")
    b'caf\xe9\\1.jpg'
    """

    def replacement(found: re.Match[bytes]) -> bytes:
        code = found[1]
        return b"\\" if code == b"\\" else bytes([int(code[1:], 16)])

    try:
        return _ESCAPE.sub(replacement, text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the file name {text!r} is not valid text.") from error


def natural_key(name: str) -> tuple[Any, ...]:
    """A sort key that counts: `img2` before `img10`; letters by code point, equal numbers by their zeros.

    >>> sorted(["img10", "img2", "Img3", "img02"], key=natural_key)
    ['Img3', 'img02', 'img2', 'img10']
    """
    parts: list[Any] = _NUMBER.split(name)
    # numbers compare by length then digits: no bound on their size, unlike int()
    for index in range(1, len(parts), 2):
        digits = parts[index].lstrip("0")
        parts[index] = (len(digits), digits)
    return tuple(parts), name
