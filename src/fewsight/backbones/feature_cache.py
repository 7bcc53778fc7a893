"""Features kept on disk, so that a second run over the same photos encodes nothing.

An entry is found by the content of its photo and by everything that made the features: weights, transform,
request, precision. So it can never be stale, and names and folders do not matter. All entries live in one SQLite
file, which several processes may use at once and which survives a kill at any moment. Above the size limit the
entries unused for longest go first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.features import BlockTokens, Features, Request
from fewsight.files import cache_folder, said_of_disk
from fewsight.progress import quieted, say

__all__ = [
    "CacheUsage",
    "FeatureCache",
    "clear",
    "features_of",
    "fingerprint",
    "image_digest",
    "usage",
    "weights_digest",
]

LIMIT = 10 * 2**30  # bytes
FORMAT = 1  # goes into every key; a change forgets all entries
_TABLES = """
CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, size INTEGER NOT NULL, used REAL NOT NULL);
CREATE TABLE IF NOT EXISTS contents (key TEXT PRIMARY KEY, content BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_use ON entries (used);
"""
_TOTAL = "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM entries"
_FIELDS = ("cls", "patches", "keys", "class_query", "attention")


@dataclass(frozen=True)
class CacheUsage:
    """What `fewsight cache` shows: where, how many photos, bytes of features, bytes on disk."""

    folder: Path
    entries: int
    feature_bytes: int
    disk_bytes: int


def usage(folder: Path | None = None) -> CacheUsage:
    """How much the feature cache holds."""
    with FeatureCache(folder) as cache:
        return cache.usage()


def clear(folder: Path | None = None) -> CacheUsage:
    """Delete all features that are kept; tells what was there."""
    with FeatureCache(folder) as cache:
        before = cache.usage()
        cache.clear()
    return before


def image_digest(image: Tensor) -> str:
    """A name for the content of a transformed picture `[3, H, W]`, for pictures that come without a file."""
    content = hashlib.blake2b(str((image.dtype, tuple(image.shape))).encode(), digest_size=16)
    content.update(image.detach().cpu().contiguous().numpy().data)
    return content.hexdigest()


def weights_digest(backbone: Backbone) -> str:
    """SHA-256 over names, shapes and values of all weights; about 2 GB/s."""
    digest = hashlib.sha256()
    for name, tensor in backbone.state_dict().items():
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def features_of(backbone: Backbone) -> str:
    """16 hexadecimal digits that are equal where two backbones give the same vectors: weights, transform, pooling.

    Unlike a cache key it says nothing of number format and version, so that features of another day compare.
    """
    described = {
        "kind": type(backbone).__name__,
        "positions": repr(getattr(backbone, "positions", None)),
        "weights": weights_digest(backbone),
        "transform": backbone.transform.as_dict(),
        "pooling": backbone.pooling,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(backbone: Backbone, request: Request, **settings: Any) -> str:
    """What a cache key says besides the photo: weights, transform, request, and `settings` as plain values."""
    from fewsight import __version__

    described = {
        "format": FORMAT,
        "version": __version__,
        "kind": type(backbone).__name__,
        "positions": repr(getattr(backbone, "positions", None)),
        "weights": weights_digest(backbone),
        "transform": backbone.transform.as_dict(),
        "request": asdict(request),
        **settings,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


class FeatureCache:
    """The features of many photos in one file; a context manager.

    A disk that is full or read-only stops the cache, not the run: it says so once and keeps nothing more.

    Args:
        folder: None for `features` in the cache folder of fewsight.
        limit: bytes of features to keep.
    """

    def __init__(self, folder: Path | None = None, *, limit: int = LIMIT) -> None:
        self.folder = cache_folder() / "features" if folder is None else Path(folder)
        self.limit = limit
        self._path = self.folder / "features.sqlite"
        self._connection: sqlite3.Connection | None = None
        self._broken = False
        self._unchecked = self.limit  # bytes added since all entries were last counted
        self._opening = threading.Lock()

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- one photo

    def holds(self, key: str) -> bool:
        """Whether an entry is there; may be asked by any thread."""
        row = None
        with self._reading() as connection:
            if connection is not None:
                row = connection.execute("SELECT 1 FROM entries WHERE key = ?", (key,)).fetchone()
        return row is not None

    def get(self, key: str) -> tuple[Features, dict[str, str]] | None:
        """Features of one photo (B = 1) and the words kept with them; None where there is no sound entry."""
        row = None
        with self._reading() as connection:
            if connection is not None:
                row = connection.execute("SELECT content FROM contents WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        try:
            return _unpacked(row[0])
        except Exception:  # a damaged entry is as good as none: safetensors raises many kinds
            return None

    def put(self, entries: Mapping[str, tuple[Features, dict[str, str]]]) -> None:
        """Keep photos under their keys: features of one photo each (B = 1), and words about it."""
        packed = {key: _packed(features, words) for key, (features, words) in entries.items()}
        now = time.time()
        with self._writing() as connection:
            if connection is not None and packed:
                connection.executemany(
                    "INSERT OR REPLACE INTO entries VALUES (?, ?, ?)",
                    [(key, len(content), now) for key, content in packed.items()],
                )
                connection.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?)", list(packed.items()))
                self._unchecked += sum(len(content) for content in packed.values())
                if self._unchecked > self.limit // 100:  # counting all entries takes a while
                    self._make_room(connection)
                    self._unchecked = 0

    def touch(self, keys: Iterable[str]) -> None:
        """Mark entries as used now, so that they stay longest."""
        now = time.time()
        with self._writing() as connection:
            if connection is not None:
                connection.executemany(
                    "UPDATE entries SET used = ? WHERE key = ?", [(now, key) for key in keys]
                )

    # --- all of it

    def usage(self) -> CacheUsage:
        """How many photos and bytes are kept."""
        count, size = 0, 0
        with self._reading() as connection:
            if connection is not None:
                count, size = connection.execute(_TOTAL).fetchone()
        files = self.folder.glob("features.sqlite*") if self.folder.is_dir() else ()
        return CacheUsage(self.folder, count, size, sum(file.stat().st_size for file in files))

    def clear(self) -> None:
        """Delete all entries and give their space back to the disk."""
        if not self._path.exists():
            return
        with quieted(), self._writing() as connection:
            if connection is not None:
                connection.execute("DELETE FROM entries")
                connection.execute("DELETE FROM contents")
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):  # another process reads: the space is reused later
                self._connection.execute("VACUUM")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:  # the file is damaged
            for file in self.folder.glob("features.sqlite*"):
                with said_of_disk(file):
                    file.unlink()
            self._broken = False

    def _make_room(self, connection: sqlite3.Connection) -> None:
        _, total = connection.execute(_TOTAL).fetchone()
        if total <= self.limit:
            return
        leaving, enough = [], total - int(0.9 * self.limit)  # some room, so that this is rare
        for key, size in connection.execute("SELECT key, size FROM entries ORDER BY used, rowid"):
            if enough <= 0:
                break
            leaving.append((key,))
            enough -= size
        connection.executemany("DELETE FROM entries WHERE key = ?", leaving)
        connection.executemany("DELETE FROM contents WHERE key = ?", leaving)

    # --- the file

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        if self._connection is None and not self._path.exists():
            yield None
            return
        with self._guarded() as connection:
            yield connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection | None]:
        with self._guarded() as connection:
            if connection is None:
                yield None
                return
            with connection:  # commits, or undoes all of it
                yield connection

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[sqlite3.Connection | None]:
        """The connection; what the disk refuses ends the cache and not the run."""
        connection = self._opened()
        try:
            yield connection
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _opened(self) -> sqlite3.Connection | None:
        with self._opening:
            if self._connection is None and not self._broken:
                try:
                    self._connection = self._connected()
                except (sqlite3.Error, OSError) as error:
                    self._give_up(error)
            return self._connection

    def _connected(self) -> sqlite3.Connection:
        self.folder.mkdir(parents=True, exist_ok=True)
        # sqlite serialises what threads ask of one connection
        connection = sqlite3.connect(self._path, timeout=60, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.executescript(_TABLES)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _give_up(self, error: Exception) -> None:
        self._broken = True
        with contextlib.suppress(sqlite3.Error):
            self.close()
        say(
            f"the feature cache in {self.folder} cannot be used ({error}); going on without it. "
            "`fewsight cache --clear` or FEWSIGHT_CACHE may help.",
            once=True,
        )


def _packed(features: Features, words: dict[str, str]) -> bytes:
    from safetensors.torch import save

    tensors = {name: getattr(features, name) for name in _FIELDS}
    if features.blocks is not None:
        tensors |= {"blocks.cls": features.blocks.cls, "blocks.patches": features.blocks.patches}
    return save({name: value.contiguous() for name, value in tensors.items() if value is not None}, words)


def _unpacked(content: bytes) -> tuple[Features, dict[str, str]]:
    from safetensors.torch import load

    tensors: dict[str, Tensor] = load(content)
    length = int.from_bytes(content[:8], "little")
    words = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    blocks = None
    if "blocks.patches" in tensors:
        blocks = BlockTokens(tensors.get("blocks.cls"), tensors["blocks.patches"])
    return Features(blocks=blocks, **{name: tensors.get(name) for name in _FIELDS}), words
