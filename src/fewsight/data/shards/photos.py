"""Photos in shards by their row: read where they lie, decoded when asked for, never written to a disk.

What a kernel keeps of files that were read is the buffer in which photos are shuffled: whole spans of a shard are read
ahead at the first photo in them, so that the disk reads along though the photos come shuffled, and no process grows.

A photo that cannot be decoded is named in `unreadable.csv` and the next readable one of its shard stands in for it, so
that batches keep their size and a resumed run sees the same.
"""

from __future__ import annotations

import csv
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.data.decode import MAX_PIXELS, decode_bytes
from fewsight.data.file_names import display_name
from fewsight.data.loading import default_workers, needed_size, shrink
from fewsight.data.pixels import Pixels
from fewsight.data.shards.headers import member_name
from fewsight.data.shards.index import ShardIndex
from fewsight.data.source import read_part
from fewsight.data.transform import Transform
from fewsight.errors import FewsightError, UnreadableImage
from fewsight.files import said_of_disk

__all__ = ["ShardPhotos"]

SPAN = 4 << 20  # bytes that are read ahead together
MOST_UNREADABLE = 1000  # photos in a row, after which something else must be wrong
OPEN_SHARDS = 128
REMEMBERED = 1 << 16  # spans of which is known that they were read ahead


class ShardPhotos:
    """Photos at one size, as `training.view_source.Photos`.

    Args:
        index: of the shards.
        transform: size, crop and interpolation of what is given.
        workers: threads that decode; None takes one for each processor but one.
        report: a CSV (`file,status,note`) that unreadable photos are added to; None names them nowhere.
        strict: raise `UnreadableImage` at the first of them.
        left_out: rows that never stand in for others, ascending (held-out photos).
    """

    def __init__(
        self,
        index: ShardIndex,
        transform: Transform,
        *,
        workers: int | None = None,
        report: Path | None = None,
        strict: bool = False,
        left_out: NDArray[numpy.int64] | None = None,
    ) -> None:
        self.index, self.transform = index, transform
        self.strict = strict
        self._left_out = numpy.zeros(0, numpy.int64) if left_out is None else left_out
        threads = default_workers() if workers is None else workers
        self._pool = (
            ThreadPoolExecutor(threads) if threads > 1 else None
        )  # one thread more would only be handed to
        self._report = None if report is None else _Report(report)
        self._shard = lru_cache(maxsize=OPEN_SHARDS)(_Shard)
        self._read_ahead = lru_cache(maxsize=REMEMBERED)(self._advise)
        self._bad: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.index)

    @property
    def unreadable(self) -> int:
        """Photos that could not be decoded so far, those before a resumption among them."""
        return len(self._bad) if self._report is None else len(self._report)

    def rows(self, index: Sequence[int] | NDArray[numpy.int64]) -> Tensor:
        """uint8 `[B, 3, H, W]` of some photos, in the order of `index`.

        Raises:
            UnreadableImage: with `strict`.
            FewsightError: a thousand photos on end cannot be decoded.
        """
        wanted = numpy.asarray(index, numpy.int64).tolist()
        for row in wanted:
            self._expect(row)
        decoded = (
            map(self._readable, wanted) if self._pool is None else self._pool.map(self._readable, wanted)
        )
        pixels = list(decoded)
        stacked = numpy.stack(pixels) if pixels else numpy.zeros((0, *self.transform.size, 3), numpy.uint8)
        return torch.from_numpy(stacked).permute(0, 3, 1, 2)

    def pixels(self, row: int) -> Pixels:
        """One photo, uint8 `[H, W, 3]`.

        Raises:
            UnreadableImage: it cannot be decoded.
        """
        place = self.index.rows[row]
        shard = self._shard(self.index.files[self.index.shard_of(row)])  # held, lest it is closed meanwhile
        content = read_part(
            shard.descriptor,
            int(place["offset"]),
            int(place["size"]),
            max_bytes=8 * MAX_PIXELS + (1 << 26),
        )
        decoded = decode_bytes(content, needed=needed_size(self.transform))
        return numpy.asarray(shrink(decoded.picture, self.transform))

    def name(self, row: int) -> str:
        """`SHARD/MEMBER`, for people."""
        file = self.index.files[self.index.shard_of(row)]
        shard = self._shard(file)
        member = member_name(shard.descriptor, int(self.index.rows[row]["offset"]))
        return display_name(f"{file.name}/{member}".encode("utf-8", "surrogateescape"))

    def _readable(self, row: int) -> Pixels:
        """The photo, or the next readable one of its shard (and of the following ones)."""
        tried = 0
        for other in self._from(row):
            if other not in self._bad:
                try:
                    return self.pixels(other)
                except UnreadableImage as error:
                    self._refused(other, error)
            tried += 1
            if tried == MOST_UNREADABLE:
                break
        raise FewsightError(
            f"{tried} photos on end cannot be read from {self.name(row)} on; are the shards what they should be? "
            "The reasons stand in unreadable.csv."
        )

    def _from(self, row: int) -> Iterator[int]:
        """The row itself, then the others of its shard, then all others; none that is left out."""
        number = self.index.shard_of(row)
        first, last = (int(place) for place in self.index.starts[number : number + 2])
        yield row
        for other in chain(range(row + 1, last), range(first, row), range(last, len(self)), range(first)):
            place = int(numpy.searchsorted(self._left_out, other))
            if place == len(self._left_out) or self._left_out[place] != other:
                yield other

    def _refused(self, row: int, error: UnreadableImage) -> None:
        name = self.name(row)
        if self.strict:
            raise UnreadableImage(
                f"{name} cannot be read ({error}; --strict stops here).", status=error.status
            )
        self._bad[row] = str(error)
        if self._report is not None:
            self._report.add(name, error.status, str(error))

    def _expect(self, row: int) -> None:
        """Tell the kernel what will be read: whole spans, each once."""
        place = self.index.rows[row]
        file = self.index.files[self.index.shard_of(row)]
        first, last = int(place["offset"]), int(place["offset"]) + int(place["size"])
        for span in range(first // SPAN, last // SPAN + 1):
            self._read_ahead(file, span)

    def _advise(self, file: Path, span: int) -> None:
        shard = self._shard(file)
        if hasattr(os, "posix_fadvise"):  # not on every system
            os.posix_fadvise(shard.descriptor, span * SPAN, SPAN, os.POSIX_FADV_WILLNEED)


class _Shard:
    """An open file, closed when nobody uses it any more."""

    def __init__(self, path: Path) -> None:
        self.descriptor = -1
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise UnreadableImage(f"the shard cannot be opened: {error.strerror}") from error

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class _Report:
    """`unreadable.csv`, each photo once."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._names: set[str] = set()
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self._names = {row["file"] for row in csv.DictReader(file) if row.get("file")}

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, status: str, note: str) -> None:
        with self._lock:
            if name in self._names:
                return
            fresh = not self._names
            self._names.add(name)
            with said_of_disk(self._path), self._path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                if fresh:
                    writer.writerow(["file", "status", "note"])
                writer.writerow([name, status, note])
