"""Walking a folder of photos: what is a photo, what is litter, what is a mask; in natural order.

A listing opens no photo. Only files whose suffix says nothing are looked into (their first bytes), so that a photo
without a suffix is found and a text file is not taken for one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fewsight.data.file_names import natural_key
from fewsight.data.signatures import HEAD_BYTES, IMAGE_SUFFIXES, is_image_head
from fewsight.data.source import read_head

__all__ = ["Folder", "canonical_suffix", "list_folder", "suffix_of", "walk_folders"]

_LITTER = frozenset(["thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"])
_LITTER_FOLDERS = frozenset(["__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"])
_SAME_SUFFIX = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tif": ".tiff"}
# Never looked into: a folder may hold thousands of them.
_TEXTS = (
    ".txt",
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".xml",
    ".yaml",
    ".yml",
    ".md",
    ".html",
    ".htm",
    ".py",
    ".log",
)
_ARCHIVES = (
    ".zip",
    ".tar",
    ".gz",
    ".7z",
    ".rar",
    ".npy",
    ".npz",
    ".pt",
    ".pth",
    ".safetensors",
    ".parquet",
    ".db",
)
_OTHERS = (
    ".mp4",
    ".avi",
    ".mov",
    ".mkv",
    ".mp3",
    ".wav",
    ".docx",
    ".xlsx",
    ".ipynb",
    ".lnk",
    ".url",
    ".sqlite",
)
_NEVER_PHOTOS = frozenset((*_TEXTS, *_ARCHIVES, *_OTHERS))


@dataclass(frozen=True)
class Folder:
    """One folder of the walk.

    Attributes:
        path: relative to the root, `b""` for the root itself, `/` between folders.
        photos: names of its photos, in natural order.
        folders: names of its folders, in natural order.
        masks: names of masks that lie beside its photos.
    """

    path: bytes
    photos: tuple[bytes, ...] = ()
    folders: tuple[bytes, ...] = ()
    masks: tuple[bytes, ...] = ()

    def inside(self, name: bytes) -> bytes:
        """The path of a file or folder in it."""
        return self.path + b"/" + name if self.path else name


def walk_folders(
    root: str,
    passed: Counter[str],
    *,
    start: bytes = b"",
    follow_links: bool = False,
    skip: Callable[[bytes], bool] = lambda path: False,
) -> Iterator[Folder]:
    """All folders from `start` on, a folder before those in it, in natural order; `passed` counts what is left out.

    Folders that `skip` answers True for are left out, and not counted.

    Links to folders are followed only with `follow_links`, and then never into a folder that holds the link.
    """
    waiting: list[tuple[bytes, tuple[tuple[int, int], ...]]] = [(start, ())]
    while waiting:
        path, above = waiting.pop()
        if follow_links:
            found = Path(_absolute(root, path)).stat()
            if (found.st_dev, found.st_ino) in above:
                passed["links in a circle"] += 1
                continue
            above = (*above, (found.st_dev, found.st_ino))
        folder = list_folder(root, path, passed, follow_links=follow_links)
        yield folder
        inside = [folder.inside(name) for name in reversed(folder.folders)]
        waiting.extend((path, above) for path in inside if not skip(path))


def list_folder(root: str, path: bytes, passed: Counter[str], *, follow_links: bool = False) -> Folder:
    """One folder, without going deeper."""
    photos: list[str] = []
    folders: list[str] = []
    try:
        entries = os.scandir(_absolute(root, path))
    except OSError as error:
        passed[f"folders that cannot be read ({error.strerror})"] += 1
        return Folder(path)
    with entries:
        for entry in entries:
            if _litter(entry.name, passed):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif entry.is_symlink() and _is_folder(entry):
                if follow_links:
                    folders.append(entry.name)
                else:
                    passed["links to folders"] += 1
            elif _is_photo(entry):
                photos.append(entry.name)
            else:
                passed[f"{suffix_of(entry.name) or 'other'} files"] += 1
    return Folder(path, _ordered(photos), _ordered(folders))


def suffix_of(name: str | bytes) -> str:
    """The suffix in lower case, with its dot."""
    text = os.fsdecode(name) if isinstance(name, bytes) else name
    # not Path.suffix: this runs for each of a million names
    stem, dot, suffix = text.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if dot and stem and suffix else ""


def canonical_suffix(name: str | bytes) -> str:
    """The suffix that photos are counted under: `.JPEG` is `.jpg`."""
    suffix = suffix_of(name)
    return _SAME_SUFFIX.get(suffix, suffix) or "no suffix"


def _litter(name: str, passed: Counter[str]) -> bool:
    lowered = name.lower()
    if lowered in _LITTER or lowered in _LITTER_FOLDERS or lowered in (".ds_store", ".ipynb_checkpoints"):
        passed[name] += 1
    elif name.startswith("._"):
        passed["._*"] += 1
    elif name.startswith("."):
        passed["hidden files and folders"] += 1
    else:
        return False
    return True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _is_photo(entry: os.DirEntry[str]) -> bool:
    suffix = suffix_of(entry.name)
    if suffix in IMAGE_SUFFIXES:
        return True
    return suffix not in _NEVER_PHOTOS and is_image_head(read_head(entry.path, HEAD_BYTES))


def _ordered(names: list[str]) -> tuple[bytes, ...]:
    return tuple(os.fsencode(name) for name in sorted(names, key=natural_key))


def _absolute(root: str, path: bytes) -> str:
    return f"{root}/{os.fsdecode(path)}" if path else root
