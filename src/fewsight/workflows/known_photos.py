"""Photos of the pile that are also in the support: the same file, or the same picture saved again.

The same file is found by its content. A picture saved again is looked for only among queries whose features are close
to a support photo's, and is confirmed by the perceptual hash of both (`data.duplicates`). Where only features are left
of a photo, equal features are the same photo.
"""

from __future__ import annotations

from fewsight.data.collection import Collection
from fewsight.data.duplicates import hash_photos, nearest_duplicates

__all__ = ["KnownPhotos"]

LIKE_ENOUGH = 0.9  # cosine of features from which pictures are compared: below what saving again leaves
SAME_FEATURES = 1 - 1e-6  # a photo encoded twice, in batches of different sizes


class KnownPhotos:
    """The support photos by content.

    Args:
        collection: of S support photos.
        looked_at: whether the queries can be opened; if not, equal features are taken for the same photo.
    """

    def __init__(self, collection: Collection, *, looked_at: bool = True) -> None:
        self.collection, self.looked_at = collection, looked_at
        self.hashes = hash_photos(collection)
        self._by_digest = {content.tobytes().hex(): row for row, content in enumerate(self.hashes.content)}

    def same_as(self, path: str, digest: str | None, likeness: float, row: int) -> str | None:
        """In words, which support photo a query is; None if none.

        Args:
            path: of the query.
            digest: of its content, where it is known.
            likeness: cosine of its features to those of the support photo that is most like it, number `row`.
        """
        if digest in self._by_digest:
            return f"the same file as the labelled photo {self.collection.file(self._by_digest[digest])}"
        if likeness < LIKE_ENOUGH:
            return None
        if not (self.looked_at and self.hashes.readable[row]):
            same = likeness >= SAME_FEATURES
            return f"the same features as the labelled photo {self.collection.file(row)}" if same else None
        nearest, exactly = nearest_duplicates(hash_photos([path], workers=1), self.hashes)
        if nearest[0] < 0:
            return None
        what = "file" if exactly[0] else "picture"
        return f"the same {what} as the labelled photo {self.collection.file(int(nearest[0]))}"
