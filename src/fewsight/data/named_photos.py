"""Labels, groups and splits from the names of photos alone, by the rules of class folders; no folder is looked into."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Literal

from fewsight.data.collection import Row
from fewsight.data.file_names import display_name
from fewsight.data.reading import SPLITS

__all__ = ["labels_in_names"]


def labels_in_names(names: Sequence[bytes], class_level: Literal["top", "leaf"] = "top") -> Iterator[Row]:
    """One row a name, in order.

    Args:
        names: relative, with `/` between folders.
        class_level: `top`: the top folder is the class and deeper ones are groups; `leaf`: the deepest is the class.

    >>> [(row.labels, row.group, row.split) for row in labels_in_names([b"train/fox/a/1.jpg", b"test/owl/2.jpg"])]
    [(('fox',), 'a', 'train'), (('owl',), None, 'test')]
    """
    tops = {name.partition(b"/")[0] for name in names if b"/" in name}
    splits = bool(tops) and all(os.fsdecode(top).lower() in SPLITS for top in tops)
    for name in names:
        parts = [display_name(part) for part in name.split(b"/")[:-1]]
        split = SPLITS[parts.pop(0).lower()] if splits and parts else None
        label = (parts[-1] if class_level == "leaf" else parts[0]) if parts else None
        group = "/".join(parts[1:]) if class_level == "top" else ""
        yield Row(name, () if label is None else (label,), None, group or None, split)
