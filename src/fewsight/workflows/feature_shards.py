"""`features-00000.safetensors` and `index.csv`: features of many photos in files that are whole or not there.

A shard holds the tensor `features` [R, D], float32, one row for each photo of its stretch that was decoded, and in its
metadata what became of every photo of the stretch. `index.csv` is made from the shards alone, so that shards of
several runs on the same photos may be laid into one folder.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.files import new_file

__all__ = [
    "COLUMNS",
    "PhotoRow",
    "is_embedding",
    "read_shard",
    "remove_leftovers",
    "shard_name",
    "shard_number",
    "shard_paths",
    "write_index",
    "write_shard",
]

COLUMNS = ("file", "shard", "row", "status", "note")
ROWS = "rows"  # the one key of the metadata: with several, their order in the file would be left to chance
INDEX = "index.csv"


class PhotoRow(NamedTuple):
    """What became of one photo; `row` is its place in the tensor of its shard, None where it was not decoded."""

    file: str
    status: str
    note: str = ""
    row: int | None = None


def shard_name(number: int) -> str:
    """The file of one shard.

    >>> shard_name(3)
    'features-00003.safetensors'
    """
    return f"features-{number:05d}.safetensors"


def write_shard(folder: Path, number: int, features: Tensor, rows: Iterable[PhotoRow]) -> None:
    """Write one shard, whole or not at all; the same values give the same bytes."""
    from safetensors.torch import save

    text = json.dumps([list(row) for row in rows], ensure_ascii=True, separators=(",", ":"))
    with new_file(folder / shard_name(number)) as file:
        file.write(save({"features": features.contiguous()}, metadata={ROWS: text}))


def read_shard(path: Path) -> list[PhotoRow]:
    """What became of the photos of one shard, in order; the features stay on the disk.

    Raises:
        InvalidInput: the file is no shard, or damaged.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, path.stat().st_size)))
        return [
            PhotoRow(name, status, note, row)
            for name, status, note, row in json.loads(header["__metadata__"][ROWS])
        ]
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{path} is damaged ({type(error).__name__}): delete it and run `fewsight embed` with --resume."
        ) from error


def write_index(folder: Path) -> dict[str, int]:
    """Make `index.csv`, one row a photo in input order, of the shards that are there.

    Returns:
        The number of photos by status.
    """
    counts: dict[str, int] = {}
    with new_file(folder / INDEX, "w") as file:
        writer = csv.writer(file, lineterminator="\r\n")  # RFC 4180
        writer.writerow(COLUMNS)
        for path in shard_paths(folder):
            for photo in read_shard(path):
                row = "" if photo.row is None else photo.row
                writer.writerow((photo.file, path.name, row, photo.status, photo.note))
                counts[photo.status] = counts.get(photo.status, 0) + 1
    return counts


def shard_paths(folder: Path) -> Iterator[Path]:
    """The shards that are there, by their numbers."""
    found = [path for path in folder.iterdir() if re.fullmatch(r"features-\d{5,}\.safetensors", path.name)]
    yield from sorted(found, key=shard_number)


def shard_number(path: Path) -> int:
    """The number in the name of a shard.

    >>> shard_number(Path("features-00003.safetensors"))
    3
    """
    return int(path.stem.partition("-")[2])


def remove_leftovers(folder: Path, number: int) -> None:
    """Delete what a kill within the writing of one shard left behind."""
    for path in folder.glob(f".{shard_name(number)}.*.part"):
        with contextlib.suppress(OSError):
            path.unlink()


def is_embedding(path: Path) -> bool:
    """Whether a folder is what `fewsight embed` wrote."""
    return (path / INDEX).is_file() and (path / shard_name(0)).is_file()
