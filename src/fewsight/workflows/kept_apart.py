"""What must not stand on both sides of a judgement: photos of one group, and duplicates of one photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from fewsight.data.collection import Collection
from fewsight.data.duplicate_groups import DuplicateGroups, duplicate_groups
from fewsight.data.fingerprint import fingerprint
from fewsight.progress import Progress
from fewsight.workflows.labelled_photos import groups_of

__all__ = ["KeptApart", "kept_apart"]

REMEMBERED = (
    8  # data sets; a study judges many backbones on the same photos, and decoding them again costs most
)
_known: dict[tuple[str, str], DuplicateGroups] = {}


@dataclass(frozen=True)
class KeptApart:
    """Groupings of N photos.

    Attributes:
        duplicates: int64 [N], one number for all photos of one picture.
        groups: int64 [N] by `--group-by`, or None.
        remarks: what was found, in words.
    """

    duplicates: NDArray[numpy.int64]
    groups: NDArray[numpy.int64] | None
    remarks: tuple[str, ...]

    @property
    def groupings(self) -> tuple[NDArray[numpy.int64], ...]:
        """Duplicates, then groups where there are some."""
        return (self.duplicates,) if self.groups is None else (self.duplicates, self.groups)


def kept_apart(collection: Collection, group_by: str | None, workers: int | None = None) -> KeptApart:
    """Find the duplicates of a collection, and its groups where they are asked for."""
    names = groups_of(collection, group_by)
    codes = None if names is None else numpy.unique(names, return_inverse=True)[1].astype(numpy.int64)
    found = _duplicates(collection, workers)
    remark = found.remark(collection)
    return KeptApart(found.codes, codes, () if remark is None else (remark,))


def _duplicates(collection: Collection, workers: int | None) -> DuplicateGroups:
    """Found once in a process for the same files."""
    key = str(collection.root), fingerprint(collection)
    if key not in _known:
        with Progress("looking for duplicates", len(collection)) as bar:
            found = duplicate_groups(collection, workers=workers, done=bar.advance)
        while len(_known) >= REMEMBERED:
            del _known[next(iter(_known))]
        _known[key] = found
    return _known[key]
