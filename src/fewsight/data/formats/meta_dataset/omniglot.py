"""Omniglot: `images_evaluation/Angelic/character01/0965_01.png`, black strokes on white, inverted as the authors do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewsight.data.decode import Source, decode
from fewsight.data.formats.meta_dataset.items import Found, Item, Reader, first_of, photos_in

__all__ = ["OMNIGLOT"]


def read(folder: Path, classes: Sequence[str]) -> Found:
    """Alphabets with folders of characters; a class is `Alphabet-character01`."""
    places = [folder / name for name in ("images_evaluation", "images_background")]
    python = first_of(folder, "python")
    places += [] if python is None else [python / place.name for place in places]
    places.append(folder)
    found = {}
    for name in classes:
        alphabet, _, character = name.rpartition("-")
        items = (photos_in(place / alphabet / character) for place in places)
        found[name] = next((those for those in items if those), [])
    return {name: items for name, items in found.items() if items}


def inverted(item: Item) -> Source:
    """White strokes on black."""
    return 255 - decode(item.path).image


OMNIGLOT = Reader(
    ("omniglot-py",),
    "images_evaluation/Angelic/character01/*.png, ...",
    read,
    inverted,
)
