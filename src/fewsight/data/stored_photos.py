"""A collection as a `PixelStore`: each photo decoded once, resized by the backbone's transform, kept as uint8."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fewsight.data.collection import Collection
from fewsight.data.decode import decode
from fewsight.data.fingerprint import fingerprint
from fewsight.data.loading import default_workers, needed_size, shrink
from fewsight.data.pixels import Pixels
from fewsight.data.store import PixelStore, build_store
from fewsight.data.transform import Transform
from fewsight.errors import UnreadableImage
from fewsight.progress import Progress

__all__ = ["store_photos"]


def store_photos(
    collection: Collection, transform: Transform, folder: Path, *, workers: int | None = None
) -> PixelStore:
    """The store of a collection in `folder`, made where it is missing or stands for other photos.

    Args:
        collection: row i of the store is photo i.
        transform: size, crop and interpolation; mean and std are left to the reader.
        folder: of the store.
        workers: threads that decode; None takes one for each processor but one.
    """

    def read(first: int, last: int) -> Iterator[Pixels | None]:
        for pixels in pool.map(lambda index: _pixels(collection, index, transform), range(first, last)):
            bar.advance()
            yield pixels

    geometry = json.dumps([transform.size, transform.mode, transform.crop_fraction, transform.interpolation])
    name = hashlib.blake2b(f"{fingerprint(collection)}{geometry}".encode(), digest_size=8).hexdigest()
    count = default_workers() if workers is None else max(1, workers)
    with ThreadPoolExecutor(count) as pool, Progress("storing", len(collection)) as bar:
        return build_store(folder, len(collection), transform.size, name, read)


def _pixels(collection: Collection, index: int, transform: Transform) -> Pixels | None:
    try:
        decoded = decode(collection.path(index), needed=needed_size(transform), root=collection.root)
    except UnreadableImage:
        return None
    return shrink(decoded.picture, transform)
