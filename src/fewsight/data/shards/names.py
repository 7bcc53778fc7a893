"""Which tar files are meant: `photos-{000000..000099}.tar`, a pattern, one tar, or a folder of them."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fewsight.data.file_names import natural_key
from fewsight.errors import InvalidInput

__all__ = ["shard_files"]

SUFFIX = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
MOST = 10_000_000  # shards of one name; more is a slip of the keyboard
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def shard_files(source: str | os.PathLike[str]) -> tuple[Path, ...] | None:
    """The shards that a person names, in order; None where it names something else.

    Braces hold a range with its leading zeros (`{0000..0099}`) or words (`{train,extra}`); `*`, `?` and `[...]` are
    patterns of files. A folder counts if tar files lie in it and nothing else but their side files.

    Raises:
        InvalidInput: a shard that is named is not there, a pattern fits nothing, or the shards are compressed.
    """
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        return _of_folder(path)
    if path.exists():
        _check_plain([path])
        return (path,) if text.lower().endswith(SUFFIX) else None
    if "{" not in text and not glob.has_magic(text):
        return None
    names = [name for part in _expanded(text) for name in _matching(part)]
    if not any(name.lower().endswith((SUFFIX, *COMPRESSED)) for name in names):
        return None
    files = [Path(name) for name in names]
    _check_plain(files)
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise InvalidInput(
            f"{len(absent)} of the {len(files)} shards of {text} are not there, the first is {absent[0]}."
        )
    return tuple(files)


def _of_folder(folder: Path) -> tuple[Path, ...] | None:
    names = [entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith(".")]
    shards = sorted((name for name in names if name.lower().endswith(SUFFIX)), key=natural_key)
    side = (SUFFIX, ".json", ".txt", ".idx", ".index", ".parquet", ".md")
    if not shards or not all(name.lower().endswith(side) for name in names):
        return None
    return tuple(folder / name for name in shards)


def _check_plain(files: list[Path]) -> None:
    for file in files:
        if file.name.lower().endswith(COMPRESSED):
            raise InvalidInput(
                f"{file} is compressed, and photos inside cannot be reached one by one: unpack it to a plain .tar "
                "(photos are compressed already, so it grows little)."
            )


def _matching(name: str) -> list[str]:
    """The files of a pattern; a name without one stands for itself."""
    if not glob.has_magic(name):
        return [name]
    return sorted(glob.glob(name), key=natural_key)  # noqa: PTH207  (the pattern may begin at the root)


def _expanded(text: str) -> Iterator[str]:
    """Every name that the braces stand for.

    >>> list(_expanded("{a,b}-{08..10}.tar"))
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    pieces = _BRACES.split(text)  # every second piece stood in braces
    choices = [_choices(piece) if place % 2 else [piece] for place, piece in enumerate(pieces)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST:
        raise InvalidInput(f"{text} names {count:,} shards; at most {MOST:,} are taken.")
    return ("".join(parts) for parts in itertools.product(*choices))


def _choices(inside: str) -> list[str]:
    found = _RANGE.fullmatch(inside)
    if found is None:
        return inside.split(",")
    first, last = found.groups()
    if int(last) - int(first) >= MOST:
        raise InvalidInput(f"{{{inside}}} names too many shards; at most {MOST:,} are taken.")
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
