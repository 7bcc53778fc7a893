"""Pascal VOC (Everingham et al. 2010): one XML file an image in `Annotations`, images in `JPEGImages`.

Labels are the names of the objects, masks those of `SegmentationClass` where they exist, splits the lists of
`ImageSets/Main` (an image in several lists has the first of train, val, test).
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from fewsight.data.file_names import natural_key
from fewsight.data.label_table import LabelFile, LabelRow, label_file
from fewsight.errors import InvalidInput

__all__ = ["is_voc", "read_voc"]

MAX_BYTES = 1 << 24


def is_voc(folder: Path) -> bool:
    """Whether a folder is laid out as VOC."""
    return (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()


def read_voc(folder: Path) -> LabelFile:
    """Image labels, in natural order of the annotation files.

    Raises:
        InvalidInput: with the file, for XML that is damaged, too large, or defines entities.
    """
    splits = _splits(folder)
    files = sorted((folder / "Annotations").glob("*.xml"), key=lambda file: natural_key(file.name))
    return label_file(folder / "Annotations", (_row(folder, file, splits) for file in files))


def _row(folder: Path, file: Path, splits: dict[str, str]) -> LabelRow:
    root = _parse(file)
    name = (root.findtext("filename") or f"{file.stem}.jpg").strip().replace("\\", "/").rpartition("/")[2]
    labels = dict.fromkeys(text.strip() for found in root.iter("object") if (text := found.findtext("name")))
    mask = f"SegmentationClass/{file.stem}.png"
    has_mask = (folder / mask).is_file()
    return LabelRow(
        file.name, f"JPEGImages/{name}", tuple(labels), mask if has_mask else "", splits.get(file.stem, "")
    )


def _parse(file: Path) -> ElementTree.Element:
    if file.stat().st_size > MAX_BYTES:
        raise InvalidInput(f"{file} has more than {MAX_BYTES:,} bytes; no annotation is that large.")
    content = file.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        # entities can expand without end, and no annotation needs one
        raise InvalidInput(f"{file} defines a document type or entities; remove them.")
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InvalidInput(f"{file} is no valid XML ({error}).") from error


def _splits(folder: Path) -> dict[str, str]:
    splits: dict[str, str] = {}
    for name in ("train", "val", "test"):
        path = folder / "ImageSets" / "Main" / f"{name}.txt"
        if path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.split():
                    splits.setdefault(line.split()[0], name)
    return splits
