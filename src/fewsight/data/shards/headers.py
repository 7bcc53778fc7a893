"""One tar shard: where each of its photos lies, from the headers alone.

A sample is a run of members with one key, the path up to the first dot of its last part (the rule of WebDataset):
`dog/01.jpg` and `dog/01.cls` belong together. Members that are no plain files are passed over, and nothing is ever
unpacked, so that no name can lead anywhere. Damage costs the members that it touches: behind it the next header is
looked for.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fewsight.data.signatures import IMAGE_SUFFIXES
from fewsight.errors import InvalidInput

__all__ = ["InShard", "ShardHeaders", "member_name", "read_headers"]

BLOCK = tarfile.BLOCKSIZE
LONGEST_LABEL = 200  # bytes of a .cls file; more is no name of a class
_STEP = 1 << 20


class InShard(NamedTuple):
    """Where the bytes of one photo lie, and the content of its `.cls` file."""

    offset: int
    size: int
    label: str | None


@dataclass
class ShardHeaders:
    """What a shard holds.

    Attributes:
        photos: in the order of the file.
        passed: further photos of samples that have one already.
        damage: in words; empty for a whole shard.
    """

    photos: list[InShard] = field(default_factory=list)
    passed: int = 0
    damage: str = ""


def read_headers(path: Path) -> ShardHeaders:
    """List the photos of a shard.

    Raises:
        InvalidInput: it cannot be opened.
    """
    found = ShardHeaders()
    try:
        with path.open("rb") as file:
            end = os.fstat(file.fileno()).st_size
            if end == 0:
                found.damage = f"{path} is empty"
                return found
            samples = _Samples(file, found)
            for member in _members(file, end, path, found):
                samples.add(member)
            samples.close()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}.") from error
    return found


def member_name(file: int, offset: int) -> str:
    """The name of the member whose bytes begin at `offset` of an open file.

    Its header lies right before; one or a few blocks with a long name may lie before that.
    """
    for blocks in (3, 4, 5, 1):
        if offset < blocks * BLOCK:
            continue
        raw = os.pread(file, blocks * BLOCK, offset - blocks * BLOCK)
        with contextlib.suppress(tarfile.TarError, ValueError):
            archive = tarfile.TarFile(fileobj=io.BytesIO(raw), encoding="utf-8", errors="surrogateescape")
            while (member := archive.next()) is not None:
                if member.offset_data == blocks * BLOCK:
                    return member.name
    return f"the member at byte {offset}"


def _members(file: BinaryIO, end: int, path: Path, found: ShardHeaders) -> Iterator[tarfile.TarInfo]:
    """Plain files that are whole, also behind damage."""
    start, lost, members = 0, 0, 0
    while start < end:
        reached = start
        for member in _archive(file, start):
            members += 1
            reached = member.offset_data + -(-member.size // BLOCK) * BLOCK
            if member.offset_data + member.size > end:
                found.damage = f"{path} ends in the middle of {member.name} (truncated)"
                return
            if member.isreg() and not member.sparse:
                yield member
        if _is_end(file, reached):
            break
        lost += 1
        start = _next_header(file, reached if reached > start else start + BLOCK, end)
    if lost and not members:
        found.damage = f"{path} is no tar file, or nothing is left of it"
    elif lost:
        found.damage = f"{path} is damaged in {lost} place{'s' if lost > 1 else ''}; photos there are lost"


def _archive(file: BinaryIO, start: int) -> Iterator[tarfile.TarInfo]:
    """Members from a place on, up to the end or to damage."""
    file.seek(start)
    with contextlib.suppress(tarfile.TarError, ValueError, OverflowError):
        archive = tarfile.TarFile(fileobj=file, mode="r", encoding="utf-8", errors="surrogateescape")
        while (member := archive.next()) is not None and member.size >= 0:
            archive.members = []  # type: ignore[attr-defined]  # kept for extraction alone, which never happens
            yield member


def _is_end(file: BinaryIO, place: int) -> bool:
    """Whether nothing but zeros follows: the end of an archive, with or without its mark."""
    file.seek(place)
    while block := file.read(_STEP):
        if block.strip(b"\0"):
            return False
    return True


def _next_header(file: BinaryIO, place: int, end: int) -> int:
    """The next block from `place` on that has the mark of a header and its checksum; `end` if there is none."""
    file.seek(place)
    while place < end:
        block = file.read(_STEP)
        at = -1
        while (at := block.find(b"ustar", at + 1)) >= 0:
            head = at - 257  # where the mark stands in a header
            if head >= 0 and head % BLOCK == 0 and _is_header(block[head : head + BLOCK]):
                return place + head
        if not block:
            break
        place += len(block)
    return end


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


class _Samples:
    """Members put together by their key as they come."""

    def __init__(self, file: BinaryIO, found: ShardHeaders) -> None:
        self._file, self._found = file, found
        self._key: str | None = None
        self._photo: tuple[int, int] | None = None
        self._label: str | None = None

    def add(self, member: tarfile.TarInfo) -> None:
        folder, _, name = member.name.rpartition("/")
        base, dot, suffix = name.partition(".")
        if not base or not dot:  # a hidden file (`._x.jpg` of another system), or a name without suffix
            return
        key = f"{folder}/{base}"
        if key != self._key:
            self.close()
            self._key = key
        suffix = suffix.lower()
        if suffix == "cls":
            self._label = self._read_label(member)
        elif "." + suffix.rpartition(".")[2] in IMAGE_SUFFIXES:
            if self._photo is None:
                self._photo = member.offset_data, member.size
            else:
                self._found.passed += 1

    def close(self) -> None:
        """The sample is whole."""
        if self._photo is not None:
            self._found.photos.append(InShard(*self._photo, self._label))
        self._photo = self._label = None

    def _read_label(self, member: tarfile.TarInfo) -> str | None:
        if member.size > LONGEST_LABEL:
            return None
        content = os.pread(self._file.fileno(), member.size, member.offset_data)
        return content.decode("utf-8", "replace").strip() or None
