"""Photos decoded once into one memory-mapped file of uint8 pixels, for training.

    STORE/store.json    size, fingerprint of the photos, SHA-256 of each finished block, unreadable photos
    STORE/pixels.bin    uint8 [N, H, W, 3], row-major; row i is photo i of the collection, zeros if unreadable

Building it can be killed at any moment: finished blocks are kept, the rest is made again. Workers and ranks share the
pages of the file, so a million photos cost no process more memory than it reads.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.files import said_of_disk, write_json

__all__ = ["PixelStore", "build_store", "open_store"]

BLOCK_BYTES = (
    64 << 20
)  # of photos that are written, hashed and committed together; two blocks are in memory at most
VERSION = 1

ReadPixels = Callable[
    [int, int], Iterable["numpy.ndarray | None"]
]  # (first, last) -> uint8 [H, W, 3] or None each


@dataclass(frozen=True)
class PixelStore:
    """Decoded photos of one size.

    Attributes:
        pixels: uint8 `[N, H, W, 3]`, memory-mapped and read-only.
        unreadable: rows that hold no photo.
        fingerprint: of the photos it was made from.
    """

    pixels: numpy.ndarray
    unreadable: frozenset[int]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def rows(self, index: Sequence[int] | numpy.ndarray) -> Tensor:
        """uint8 `[B, 3, H, W]` of some photos, in the order of `index`."""
        return torch.from_numpy(self.pixels[numpy.asarray(index)]).permute(0, 3, 1, 2)


def build_store(
    folder: Path,
    count: int,
    size: tuple[int, int],
    fingerprint: str,
    read: ReadPixels,
    *,
    block: int | None = None,
) -> PixelStore:
    """Make the store, or go on making it, or open it if it is there.

    Args:
        folder: of the store; made if need be.
        count: photos.
        size: height and width in pixels that `read` gives.
        fingerprint: of the photos and their preprocessing; another one makes the store anew.
        read: gives the pixels of photos first .. last - 1, None for an unreadable one.
        block: photos that are committed together; None for as many as 64 MiB hold.

    Raises:
        FewsightError: the disk is full or read-only.
    """
    row_bytes = size[0] * size[1] * 3
    block = block or min(4096, max(1, BLOCK_BYTES // row_bytes))
    with said_of_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    state = _read_state(folder)
    wanted = {
        "version": VERSION,
        "count": count,
        "size": list(size),
        "fingerprint": fingerprint,
        "block": block,
    }
    if state is None or {key: state[key] for key in wanted} != wanted:
        state = {**wanted, "sha256": [], "unreadable": []}
    done = _intact_blocks(folder / "pixels.bin", state, row_bytes)
    state["sha256"] = state["sha256"][:done]
    state["unreadable"] = [row for row in state["unreadable"] if row < done * block]
    with said_of_disk(folder / "pixels.bin"):
        (folder / "pixels.bin").touch()
        with (folder / "pixels.bin").open("r+b") as file:
            file.truncate(min(count, done * block) * row_bytes)
            file.seek(0, 2)
            for first in range(done * block, count, block):
                content, missing = _block_bytes(read, first, min(count, first + block), size)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # the pixels stand before the line that says so
                state["sha256"].append(hashlib.sha256(content).hexdigest())
                state["unreadable"] += missing
                write_json(folder / "store.json", state)
    write_json(folder / "store.json", state)
    return open_store(folder)


def open_store(folder: Path, *, check: bool = False) -> PixelStore:
    """Open a finished store.

    Args:
        check: read everything and compare the hashes.

    Raises:
        IncompatibleModel: it is unfinished, damaged or of an unknown version.
    """
    state = _read_state(folder)
    if state is None or state.get("version") != VERSION:
        raise IncompatibleModel(f"{folder} holds no store of version {VERSION}: make it anew.")
    height, width = state["size"]
    blocks = -(-state["count"] // state["block"])
    size = (folder / "pixels.bin").stat().st_size if (folder / "pixels.bin").exists() else -1
    if size != state["count"] * height * width * 3 or len(state["sha256"]) != blocks:
        raise IncompatibleModel(f"{folder} is an unfinished store: run the command that makes it again.")
    if check and _intact_blocks(folder / "pixels.bin", state, height * width * 3, every=True) != blocks:
        raise IncompatibleModel(
            f"{folder / 'pixels.bin'} was changed since it was made: delete the folder and make it anew."
        )
    if state["count"] == 0:
        raise InvalidInput(f"{folder} holds no photos.")
    pixels = numpy.memmap(folder / "pixels.bin", numpy.uint8, "r", shape=(state["count"], height, width, 3))
    return PixelStore(pixels, frozenset(state["unreadable"]), state["fingerprint"])


def _read_state(folder: Path) -> dict | None:
    try:
        state = json.loads((folder / "store.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    needed = {"version", "count", "size", "fingerprint", "block", "sha256", "unreadable"}
    return state if isinstance(state, dict) and needed <= set(state) else None


def _intact_blocks(path: Path, state: dict, row_bytes: int, *, every: bool = False) -> int:
    """How many blocks from the start are whole; only the last committed one is hashed unless `every`."""
    if not path.exists():
        return 0
    block_bytes, total = state["block"] * row_bytes, state["count"] * row_bytes
    intact = 0
    with path.open("rb") as file:
        for number, expected in enumerate(state["sha256"]):
            file.seek(number * block_bytes)
            length = min(block_bytes, total - number * block_bytes)
            if every or number == len(state["sha256"]) - 1:
                if hashlib.sha256(file.read(length)).hexdigest() != expected:
                    break
            elif path.stat().st_size < (number + 1) * block_bytes:
                break
            intact += 1
    return intact


def _block_bytes(
    read: ReadPixels, first: int, last: int, size: tuple[int, int]
) -> tuple[memoryview, list[int]]:
    content = numpy.zeros((last - first, *size, 3), numpy.uint8)
    missing = []
    for row, image in enumerate(read(first, last)):
        if image is None:
            missing.append(first + row)
        else:
            content[row] = image
    return content.reshape(-1).data, missing
