"""The index of many shards: where each photo lies, 16 bytes a photo, made in one pass over the headers.

    FOLDER/index.json   shards with sizes and counts, names of classes, damage
    FOLDER/rows.bin     offset int64, size uint32, class int32 (-1: none) of each photo, shard after shard

The file is memory-mapped, so that ranks share its pages. A pass that was killed goes on after the last shards that were
written down.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from fewsight.data.shards.headers import ShardHeaders, read_headers
from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.files import said_of_disk, write_json
from fewsight.progress import Progress

__all__ = ["ShardIndex", "build_index", "count_up_to", "open_index"]

ROW = numpy.dtype([("offset", "<i8"), ("size", "<u4"), ("label", "<i4")])
VERSION = 1
SAVED_EVERY = 5.0  # seconds between two notes of what is done


@dataclass(frozen=True)
class ShardIndex:
    """N photos in S shards.

    Attributes:
        files: the shards, in the order given.
        starts: row of the first photo of each shard and N, int64 `[S + 1]`.
        rows: structured `[N]`: `offset`, `size` in bytes, `label` (index into `classes`, -1 for none).
        classes: what the `.cls` members say, in order of appearance.
        damage: sentences on shards that are not whole.
        passed: further pictures of samples that have one already.
    """

    files: tuple[Path, ...]
    starts: NDArray[numpy.int64]
    rows: NDArray[numpy.void]
    classes: tuple[str, ...]
    damage: tuple[str, ...]
    passed: int

    def __len__(self) -> int:
        return len(self.rows)

    def shard_of(self, row: int) -> int:
        """Number of the shard that holds a photo."""
        return int(numpy.searchsorted(self.starts, row, "right")) - 1

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over names of the shards and places, sizes and labels of the photos in them."""
        digest = hashlib.blake2b("\0".join(file.name for file in self.files).encode("utf-8", "replace"))
        for first in range(0, len(self.rows), 1 << 20):
            digest.update(self.rows[first : first + (1 << 20)].tobytes())
        digest.update("\0".join(self.classes).encode("utf-8", "replace"))
        return digest.hexdigest()[:16]


def count_up_to(files: Sequence[Path], enough: int) -> int:
    """Photos in the shards, counted no further than `enough`.

    Raises:
        InvalidInput: a shard cannot be opened, or they hold no photo at all.
    """
    count, damage = 0, []
    for file in files:
        headers = read_headers(file)
        count += len(headers.photos)
        damage += [headers.damage] if headers.damage else []
        if count >= enough:
            return enough
    if count == 0:
        raise _no_photo(len(files), damage)
    return count


def build_index(files: Sequence[Path], folder: Path, *, workers: int = 8) -> ShardIndex:
    """Make the index in `folder`, go on making it, or open it where it stands for these shards as they are.

    Args:
        files: the shards.
        workers: threads that wait for the disk.

    Raises:
        InvalidInput: a shard cannot be opened.
        FewsightError: the disk is full or read-only.
    """
    wanted = [[str(file.absolute()), *_state(file)] for file in files]
    with said_of_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    state = _read(folder)
    if state is None or state["files"] != wanted:
        state = {"version": VERSION, "files": wanted, "counts": [], "classes": [], "damage": [], "passed": 0}
    path = folder / "rows.bin"
    with said_of_disk(path):
        path.touch()
        if path.stat().st_size < sum(state["counts"]) * ROW.itemsize:  # the notes tell of more than was kept
            state |= {"counts": [], "classes": [], "damage": [], "passed": 0}
        if len(state["counts"]) < len(files):
            _go_on(files, state, folder, workers)
    return open_index(folder)


def _go_on(files: Sequence[Path], state: dict[str, Any], folder: Path, workers: int) -> None:
    """Read the headers of the shards that are not noted yet."""
    done = len(state["counts"])
    classes = {name: number for number, name in enumerate(state["classes"])}
    noted = time.monotonic()
    with (
        (folder / "rows.bin").open("r+b") as file,
        Progress("reading headers", len(files), unit="shards", done=done) as bar,
    ):
        file.truncate(sum(state["counts"]) * ROW.itemsize)
        file.seek(0, 2)
        for headers in _in_order(files[done:], workers):
            file.write(_packed(headers, classes).tobytes())
            state["counts"].append(len(headers.photos))
            state["passed"] += headers.passed
            state["damage"] += [headers.damage] if headers.damage else []
            bar.advance()
            if time.monotonic() - noted > SAVED_EVERY:
                file.flush()
                write_json(folder / "index.json", {**state, "classes": list(classes)})
                noted = time.monotonic()
    write_json(folder / "index.json", {**state, "classes": list(classes)})


def open_index(folder: Path) -> ShardIndex:
    """Open a finished index.

    Raises:
        IncompatibleModel: it is unfinished, damaged or of an unknown version.
        InvalidInput: the shards hold no photo.
    """
    state, path = _read(folder), folder / "rows.bin"
    size = path.stat().st_size if path.exists() else -1
    if state is None or len(state["counts"]) != len(state["files"]):
        raise IncompatibleModel(
            f"{folder} is an unfinished index of shards: run the command that makes it again."
        )
    count = sum(state["counts"])
    if size != count * ROW.itemsize:
        raise IncompatibleModel(f"{path} is damaged: delete the folder and make it anew.")
    if count == 0:
        raise _no_photo(len(state["files"]), state["damage"])
    return ShardIndex(
        tuple(Path(name) for name, *_ in state["files"]),
        numpy.concatenate([[0], numpy.cumsum(state["counts"])]).astype(numpy.int64),
        numpy.memmap(path, ROW, "r"),
        tuple(state["classes"]),
        tuple(state["damage"]),
        state["passed"],
    )


def _no_photo(shards: int, damage: Sequence[str]) -> InvalidInput:
    why = f" ({damage[0]})" if damage else ""
    return InvalidInput(f"the {shards} shards hold no photo{why}; a sample is KEY.jpg, or another picture.")


def _in_order(files: Sequence[Path], workers: int) -> Iterator[ShardHeaders]:
    """Headers of each shard in order; a bounded number of shards is read ahead."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting = iter(files)
        ahead = [pool.submit(read_headers, file) for file in islice(waiting, 2 * workers)]
        while ahead:
            yield ahead.pop(0).result()
            ahead += [pool.submit(read_headers, file) for file in islice(waiting, 1)]


def _packed(headers: ShardHeaders, classes: dict[str, int]) -> NDArray[numpy.void]:
    rows = numpy.zeros(len(headers.photos), ROW)
    for row, photo in zip(rows, headers.photos, strict=True):
        label = -1 if photo.label is None else classes.setdefault(photo.label, len(classes))
        row["offset"], row["size"], row["label"] = photo.offset, min(photo.size, 0xFFFFFFFF), label
    return rows


def _state(file: Path) -> tuple[int, int]:
    """Size and time of change: another one is another shard."""
    try:
        found = file.stat()
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror or error}.") from error
    return found.st_size, found.st_mtime_ns


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        state = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    needed = {"version", "files", "counts", "classes", "damage", "passed"}
    sound = isinstance(state, dict) and needed <= set(state) and state["version"] == VERSION
    return state if sound else None
