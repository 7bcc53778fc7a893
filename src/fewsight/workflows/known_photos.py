"""Photos of the pile that are also in the support: the same file, or the same picture saved again.

The same file is found by its content. A picture saved again is looked for only among queries whose features are all
but equal to a support photo's, and is confirmed by a perceptual hash of both pictures.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor

from fewsight.data.collection import Collection
from fewsight.data.decode import decode
from fewsight.errors import UnreadableImage

__all__ = ["KnownPhotos"]

LIKE_ENOUGH = 0.9  # cosine of features from which pictures are compared: far below what any re-saving leaves
SAME_PICTURE = 6  # of 256 bits of a difference hash


class KnownPhotos:
    """The support photos by content.

    Args:
        collection: of S support photos.
        vectors: their features at unit length, `[S, D]`.
    """

    def __init__(self, collection: Collection, vectors: Tensor) -> None:
        self.collection, self.vectors = collection, vectors
        self._by_digest = {_digest(collection.path(row)): row for row in range(len(collection))}
        self._hashes: dict[int, int | None] = {}

    def same_as(self, path: str, digest: str | None, vector: Tensor) -> str | None:
        """In words, which support photo a query is; None if none.

        Args:
            path: of the query.
            digest: of its content, where it is known.
            vector: its features at unit length, `[D]`.
        """
        row = self._by_digest.get(digest or _digest(path))
        if row is not None:
            return f"the same file as the labelled photo {self.collection.file(row)}"
        similarity, nearest = (self.vectors @ vector).max(0)
        if float(similarity) < LIKE_ENOUGH:
            return None
        mine, other = _difference_hash(path), self._hash(int(nearest))
        if mine is None or other is None or (mine ^ other).bit_count() > SAME_PICTURE:
            return None
        return f"the same picture as the labelled photo {self.collection.file(int(nearest))}"

    def _hash(self, row: int) -> int | None:
        if row not in self._hashes:
            self._hashes[row] = _difference_hash(self.collection.path(row))
        return self._hashes[row]


def _digest(path: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  (names that are not UTF-8 as Python gives them)
            return blake2b(file.read(), digest_size=16).hexdigest()
    except OSError:
        return ""


def _difference_hash(path: str) -> int | None:
    import imagehash
    from PIL import Image

    try:
        picture = Image.fromarray(decode(path, needed=(64, 64)).image)
    except UnreadableImage:
        return None
    bits = imagehash.dhash(picture, hash_size=16).hash.ravel()
    return int("".join("1" if bit else "0" for bit in bits), 2) if torch.tensor(bits).any() else None
