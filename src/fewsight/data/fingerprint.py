"""A short fingerprint of a collection: another file, size or label gives another one."""

from __future__ import annotations

import hashlib
import os

from fewsight.data.collection import Collection

__all__ = ["fingerprint"]


def fingerprint(collection: Collection) -> str:
    """16 hexadecimal digits over names, sizes in bytes, and labels, in order; the pixels are not read."""
    digest = hashlib.blake2b(digest_size=8)
    for column in (collection.files.buffer, collection.labels, collection.label_offsets):
        digest.update(column.tobytes())
    if collection.boxes is not None:
        digest.update(collection.boxes.tobytes())
    for name in collection.classes:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    for index in range(len(collection)):
        digest.update(_size(collection.path(index)).to_bytes(8, "little", signed=True))
    return digest.hexdigest()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116  (a Path for each of a million photos costs more than the call)
    except (OSError, ValueError):
        return -1
