"""JSON from elsewhere: bounded, and an error for people whatever is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fewsight.errors import InvalidInput

__all__ = ["as_list", "as_mapping", "as_text", "load_json"]

MAX_BYTES = 2 << 30


def load_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InvalidInput: it cannot be read, is too large, too deep, or no JSON.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidInput(f"{path} has more than {MAX_BYTES:,} bytes; split it.")
        return json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{path}, line {error.lineno}: no valid JSON ({error.msg}).") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise InvalidInput(f"{path} is no valid JSON ({error}).") from error
    except RecursionError:
        raise InvalidInput(f"{path} is nested too deep.") from None


def as_mapping(value: Any, path: Path, where: str) -> dict[str, Any]:
    """`value` if it is an object, else an error that names the place."""
    if not isinstance(value, dict):
        raise InvalidInput(f"{path}, {where}: expected an object, found {_kind(value)}.")
    return value


def as_list(value: Any, path: Path, where: str) -> list[Any]:
    """`value` if it is a list, else an error that names the place."""
    if not isinstance(value, list):
        raise InvalidInput(f"{path}, {where}: expected a list, found {_kind(value)}.")
    return value


def as_text(value: Any, path: Path, where: str) -> str:
    """`value` if it is a text without zero bytes that is not empty, else an error that names the place."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise InvalidInput(f"{path}, {where}: expected a text, found {_kind(value)}.")
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:40]
