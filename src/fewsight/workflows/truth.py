"""What is known of the queries' true classes: from class folders, a CSV beside them, or `--truth`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from fewsight.data.layouts import Reading, read_layout
from fewsight.errors import InvalidInput
from fewsight.predictions import Prediction

__all__ = ["Truth", "read_truth"]


@dataclass(frozen=True)
class Truth:
    """True class names by the place of a photo in the pile; empty where nothing is known."""

    names: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def attach(self, row: Prediction, place: int) -> Prediction:
        """The row with its truth."""
        names = self.names.get(place)
        return row if not names else replace(row, truth=names)


def read_truth(file: Path | None, pile: Reading, classes: tuple[str, ...]) -> Truth:
    """Collect the truth.

    Folders of the pile count only if one of them is named like a class: folders of stations or dates are no truth. A
    true class that the support does not know stays as it is: an answer for such a photo is wrong.

    Raises:
        InvalidInput: the CSV of truths names no photo of the pile.
    """
    collection = pile.collection
    if file is None:
        if not set(collection.classes) & set(classes):
            return Truth()
        return Truth(
            {i: _names(collection, i) for i in range(len(collection)) if len(collection.labels_of(i))}
        )
    told = read_layout(file, root=[Path(collection.root), file.parent]).collection
    by_path = {told.path(i): _names(told, i) for i in range(len(told))}
    names = {i: by_path[collection.path(i)] for i in range(len(collection)) if collection.path(i) in by_path}
    if not names:
        raise InvalidInput(
            f"{file} names no photo of {collection.root}; its paths should be relative to that folder, for example "
            f"{collection.file(0) if len(collection) else 'a.jpg'}."
        )
    return Truth(names)


def _names(collection, index: int) -> tuple[str, ...]:  # type: ignore[no-untyped-def]
    return tuple(collection.classes[k] for k in collection.labels_of(index))
