"""Which reader fits a file or folder of annotations, and where its images may lie."""

from __future__ import annotations

from pathlib import Path

from fewsight.data.formats.coco import is_coco, read_coco
from fewsight.data.formats.json_file import load_json
from fewsight.data.formats.label_studio import is_label_studio, read_label_studio
from fewsight.data.formats.megadetector import is_megadetector, read_megadetector
from fewsight.data.formats.official import find_official
from fewsight.data.formats.parquet import read_parquet
from fewsight.data.formats.voc import is_voc, read_voc
from fewsight.data.formats.yolo import is_yolo, read_yolo
from fewsight.data.label_table import LabelFile
from fewsight.errors import InvalidInput

__all__ = ["ANNOTATION_SUFFIXES", "find_annotations", "image_roots", "read_annotation_file"]

ANNOTATION_SUFFIXES = frozenset([".json", ".parquet"])


def find_annotations(folder: Path) -> tuple[LabelFile, tuple[Path, ...]] | None:
    """The labels of a folder laid out as COCO, VOC, YOLO, CUB, Flowers or Pets, and where its images may lie.

    None for any other.
    """
    official = find_official(folder)
    if official is not None:
        return official, (folder,)
    if is_voc(folder):
        return read_voc(folder), (folder,)
    if is_yolo(folder):
        return read_yolo(folder), (folder,)
    for place in (folder, folder / "annotations"):
        files = sorted(place.glob("*.json")) if place.is_dir() else []
        content = load_json(files[0]) if len(files) == 1 else None
        if is_coco(content):
            return read_coco(files[0], content), image_roots(files[0])
    return None


def read_annotation_file(path: Path, roots: tuple[Path, ...]) -> LabelFile:
    """The labels of a COCO, Label Studio or MegaDetector JSON, or a Parquet table.

    Raises:
        InvalidInput: none of these, or damaged.
    """
    if path.suffix.lower() == ".parquet":
        return read_parquet(path)
    content = load_json(path)
    if is_coco(content):
        return read_coco(path, content)
    if is_megadetector(content):
        return read_megadetector(path, content)
    if is_label_studio(content):
        return read_label_studio(path, content, roots)
    raise InvalidInput(
        f"{path} is none of COCO, Label Studio, MegaDetector; expected one of these, or a CSV of labels."
    )


def image_roots(path: Path) -> tuple[Path, ...]:
    """Folders where the images of an annotation file usually lie: its own, the one above, `images`, the split."""
    split = path.stem.rpartition("_")[2]
    places = [path.parent, path.parent / "images", path.parent.parent, path.parent.parent / "images"]
    return (*places, *(place / split for place in tuple(places)))
