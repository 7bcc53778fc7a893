"""Which file is the mask of which photo, by name alone.

For `cat/1.jpg`, in this order: `cat/1_mask.png` beside it, `cat/masks/1.png`, `masks/cat/1.png` at the top (of the
root or of a split), and for `images/1.jpg` also `masks/1.png`. A mask may keep the photo's suffix: `1.jpg.png`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from fewsight.data.walk import Folder

__all__ = ["is_mask_folder", "masks_of", "part_masks"]

_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
_MASKS, _IMAGES, _BESIDE = b"masks", b"images", b"_mask"


def part_masks(folder: Folder) -> Folder:
    """The folder with the `NAME_mask.png` of its photos among `masks`, no longer among `photos`."""
    if not any(_stem(name).endswith(_BESIDE) for name in folder.photos):
        return folder
    stems = {_stem(name) for name in folder.photos} | set(folder.photos)
    masks = {
        name
        for name in folder.photos
        if _is_mask_name(name) and (stem := _stem(name)).endswith(_BESIDE) and stem[: -len(_BESIDE)] in stems
    }
    photos = tuple(name for name in folder.photos if name not in masks)
    return replace(folder, photos=photos, masks=tuple(name for name in folder.photos if name in masks))


def masks_of(root: str, folder: Folder) -> dict[bytes, bytes]:
    """The masks of a folder's photos, as names relative to `root`."""
    found: dict[bytes, bytes] = {}
    places = [(folder.path, _BESIDE)] + [(place, b"") for place in _mask_folders(folder.path)]
    for place, ending in places:
        masks = {_stem(name): name for name in _names(root, place, folder) if _is_mask_name(name)}
        if not masks:
            continue
        for photo in folder.photos:
            name = masks.get(photo + ending) or masks.get(_stem(photo) + ending)
            if name is not None and name != photo:
                found.setdefault(photo, place + b"/" + name if place else name)
    return found


def is_mask_folder(root: str, path: bytes) -> bool:
    """Whether a folder named `masks` belongs to photos: its first mask has a photo of its name in the mirrored place.

    A class may be called `masks` too.
    """
    parent, _, last = path.rpartition(b"/")
    if last.lower() != _MASKS:
        return False
    first = next(_files(root, path), None)
    if first is None:
        return False
    below, _, name = first[len(path) + 1 :].rpartition(b"/")
    for middle in (b"", _IMAGES):
        place = b"/".join(part for part in (parent, middle, below) if part)
        names = _listed(root, place)
        if any(name != other and _stem(name) in (other, _stem(other)) for other in names):
            return True
    return False


def _mask_folders(path: bytes) -> Iterator[bytes]:
    yield path + b"/" + _MASKS if path else _MASKS
    parts = path.split(b"/") if path else []
    if _IMAGES in parts:
        here = parts.index(_IMAGES)
        yield b"/".join([*parts[:here], _MASKS, *parts[here + 1 :]])
    if parts:
        yield b"/".join([_MASKS, *parts])
        yield b"/".join([parts[0], _MASKS, *parts[1:]])


def _files(root: str, path: bytes) -> Iterator[bytes]:
    for here, folders, names in os.walk(_absolute(root, path)):
        folders.sort()
        for name in sorted(names):
            if _is_mask_name(name) and not name.startswith(b"."):
                inside = (here + b"/" + name)[len(_absolute(root, b"")) :]
                yield inside.replace(os.fsencode(os.sep), b"/")


def _names(root: str, place: bytes, folder: Folder) -> tuple[bytes, ...]:
    return folder.masks if place == folder.path else _listed(root, place)


def _listed(root: str, place: bytes) -> tuple[bytes, ...]:
    try:
        with os.scandir(_absolute(root, place)) as entries:
            return tuple(sorted(entry.name for entry in entries))
    except OSError:
        return ()


def _absolute(root: str, place: bytes) -> bytes:
    return os.fsencode(root).rstrip(b"/") + b"/" + place


def _is_mask_name(name: bytes) -> bool:
    return name.lower().endswith(tuple(suffix.encode() for suffix in _SUFFIXES))


def _stem(name: bytes) -> bytes:
    stem, dot, _ = name.rpartition(b".")
    return stem if dot and stem else name
