"""The files of `segment`: indexed masks, overlays, COCO segments and tables."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from PIL import Image, ImageColor

from fewsight.data.decode import decode
from fewsight.errors import InvalidInput, UnreadableImage
from fewsight.files import new_file, said_of_disk, write_text
from fewsight.predictions import SupportMatch
from fewsight.report.masks import shrink_labels
from fewsight.report.plots import class_colour
from fewsight.report.segmentation import Presence, SegmentedPhoto

__all__ = [
    "ANSWERS",
    "FOREGROUND",
    "Pictures",
    "SegmentationRun",
    "append_line",
    "draw",
    "finished_lines",
    "palette",
    "place_of",
    "read_maps",
    "read_mask",
    "reported",
    "segments_of",
    "write_maps",
    "write_mask",
    "write_overlay",
    "write_tables",
]

LONGEST, CUT = 255, 200  # bytes of a file name: what disks take, and what is kept of one that gets too long
ANSWERS, FOREGROUND = "answers.jsonl", "foreground"
THUMBNAIL = 256
OVERLAY_SIDE = 1024  # pixels
OPACITY = 0.45


def place_of(folder: Path, file: str, suffix: str) -> Path:
    """Where the mask or overlay of a photo lies: its own name and suffix, below `folder` whatever the name is.

    >>> place_of(Path("masks"), "../a/b.jpg", ".png").as_posix()
    'masks/_/a/b.jpg.png'
    """
    parts = [("_" if part in ("", ".", "..") else part) for part in file.replace("\0", "_").split("/")]
    return folder.joinpath(*(_cut(part, "") for part in parts[:-1]), _cut(parts[-1], suffix))


def _cut(name: str, suffix: str) -> str:
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) + len(suffix) <= LONGEST:
        return name + suffix
    digits = hashlib.sha256(raw).hexdigest()[:8]
    return raw[:CUT].decode("utf-8", "ignore") + digits + suffix


def palette(classes: int) -> list[int]:
    """Red, green and blue of background and of each class, as the report has them."""
    colours = [ImageColor.getrgb(class_colour(k, classes))[:3] for k in range(classes)]
    return [0, 0, 0, *(value for colour in colours for value in colour)]


def write_mask(path: Path, labels: NDArray[Any], classes: int) -> None:
    """Write a label map as an indexed PNG of its size: 0 background, k + 1 = class k."""
    image = Image.fromarray(labels.astype(numpy.uint8))
    image.putpalette(palette(classes))
    _save(image, path, "PNG", optimize=False)


def read_mask(path: Path) -> NDArray[numpy.uint8] | None:
    """The label map of a mask that was written, or None."""
    try:
        with Image.open(path) as image:
            return numpy.array(image)
    except OSError:
        return None


def write_overlay(path: Path, source: str, labels: NDArray[Any], classes: int, root: str | None) -> None:
    """Write the photo with its classes tinted, at most 1024 pixels wide and high."""
    height, width = labels.shape
    share = min(1.0, OVERLAY_SIDE / max(height, width))
    size = (max(1, round(height * share)), max(1, round(width * share)))
    photo = Image.fromarray(decode(source, needed=size, root=root).image).resize(size[::-1])
    table = shrink_labels(labels, size)
    colours = numpy.array(palette(classes), dtype=numpy.float32).reshape(-1, 3)[table]
    opacity = numpy.where(table > 0, OPACITY, 0.0)[..., None]
    edge = numpy.zeros(table.shape, dtype=bool)
    edge[:, 1:] |= table[:, 1:] != table[:, :-1]
    edge[1:] |= table[1:] != table[:-1]
    opacity[edge & (table > 0)] = 1.0
    mixed = numpy.asarray(photo, dtype=numpy.float32) * (1 - opacity) + colours * opacity
    _save(Image.fromarray(mixed.round().astype(numpy.uint8)), path, "JPEG", quality=88)


def _save(image: Image.Image, path: Path, kind: str, **options: Any) -> None:
    """Whole or not at all; the temporary name is short, since the photo's may fill what the disk allows."""
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    with said_of_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                image.save(file, kind, **options)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def segments_of(labels: NDArray[Any]) -> list[dict[str, Any]]:
    """COCO segments of a label map, one for each class in it: category, compressed RLE, area and box."""
    from pycocotools import mask as coco

    found = []
    for value in numpy.unique(labels[labels > 0]).tolist():
        rle = coco.encode(numpy.asfortranarray(labels == value, dtype=numpy.uint8))
        found.append(
            {
                "category_id": int(value),
                "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
                "area": int(coco.area(rle)),
                "bbox": [float(side) for side in coco.toBbox(rle)],
                "iscrowd": 0,
            }
        )
    return found


def write_tables(folder: Path, rows: Sequence[dict[str, Any]], classes: Sequence[str]) -> None:
    """`classes.csv`, `areas.csv`, `segments.json`, and `photos.csv` as the last: where it is, the run is finished."""
    _table(folder / "classes.csv", ("index", "name"), ((k + 1, name) for k, name in enumerate(classes)))
    areas = (
        (row["file"], name, f"{presence:.6g}", f"{area:.6g}")
        for row in rows
        if row["size"]
        for name, presence, area in zip(classes, row["presence"], row["areas"], strict=True)
    )
    _table(folder / "areas.csv", ("file", "label", "presence", "area_fraction"), areas)
    write_text(folder / "segments.json", json.dumps(_coco(rows, classes), ensure_ascii=False))
    columns = ("file", "status", "note", "mask")
    _table(folder / "photos.csv", columns, ([row[key] for key in columns] for row in rows))


def _coco(rows: Sequence[dict[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, row in enumerate(rows, start=1):
        if not row["size"]:
            continue
        height, width = row["size"]
        images.append({"id": number, "file_name": row["file"], "height": height, "width": width})
        for segment in row["segments"]:
            score = round(row["presence"][segment["category_id"] - 1], 6)
            annotations.append({"id": len(annotations) + 1, "image_id": number, **segment, "score": score})
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with new_file(path, "w") as file:
        writer = csv.writer(file, lineterminator="\r\n")  # RFC 4180
        writer.writerow(columns)
        writer.writerows(rows)


@dataclass(frozen=True)
class SegmentationRun:
    """What a run of `segment` gave.

    Attributes:
        folder: with `photos.csv`, `masks/`, `overlays/`, `segments.json`, `areas.csv`, `classes.csv`, `report.html`,
            `model/` and `run.yaml`.
        counts: photos by status.
        classes: names in the order of the mask values.
        remarks: sentences that a person should read.
    """

    folder: Path
    counts: dict[str, int]
    classes: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "folder": str(self.folder),
            "photos": sum(self.counts.values()),
            "status": self.counts,
            "classes": list(self.classes),
            "remarks": list(self.remarks),
        }

    def sentences(self) -> Iterator[str]:
        """The result in words."""
        told = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        yield f"{sum(self.counts.values())} photos: {told or 'none'}."
        yield from self.remarks
        yield f"Report: {self.folder / 'report.html'}"


def write_maps(path: Path, maps: NDArray[numpy.uint8]) -> None:
    """Keep the foreground maps [K, h, w] of a photo: a grey PNG of the classes one below the other."""
    _save(Image.fromarray(maps.reshape(-1, maps.shape[-1])), path, "PNG", optimize=False)


def read_maps(path: Path, classes: int) -> NDArray[numpy.uint8]:
    """What `write_maps` kept, [K, h, w].

    Raises:
        InvalidInput: it is missing or damaged.
    """
    grey = read_mask(path)
    if grey is None or grey.ndim != 2 or grey.shape[0] % classes:
        raise InvalidInput(f"{path} is missing or damaged; segment the photos again.")
    return grey.reshape(classes, -1, grey.shape[1])


def draw(
    folder: Path, file: str, source: str | None, labels: NDArray[Any], classes: int, root: str | None
) -> dict[str, Any]:
    """Write mask and overlay of a photo; what its row says of them. Without `source` there is no overlay."""
    mask = place_of(folder / "masks", file, ".png")
    write_mask(mask, labels, classes)
    if source is not None:
        write_overlay(place_of(folder / "overlays", file, ".jpg"), source, labels, classes, root)
    return {
        "mask": mask.relative_to(folder).as_posix(),
        "size": list(labels.shape),
        "areas": [float((labels == k + 1).mean()) for k in range(classes)],
        "segments": segments_of(labels),
    }


def reported(row: dict[str, Any], names: Sequence[str]) -> SegmentedPhoto:
    """A row as the report takes it."""
    presences = tuple(
        Presence(name, presence, present, area)
        for name, presence, present, area in zip(
            names, row["presence"], row["present"], row["areas"], strict=False
        )
    )
    nearest = tuple(SupportMatch(*match) for match in row["nearest"])
    return SegmentedPhoto(row["file"], row["status"], row["note"], presences, nearest)


class Pictures:
    """Reads the pictures of the report; None where that is no longer possible."""

    def __init__(self, support: dict[str, str], queries: dict[str, str]) -> None:
        self.places = {"query": queries, "support": support}

    def __call__(self, kind: str, file: str) -> Any:
        path = self.places[kind].get(file)
        try:
            return None if path is None else Image.fromarray(decode(path, needed=(THUMBNAIL,) * 2).image)
        except UnreadableImage:
            return None


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Add one row to the file of finished rows; it is on the disk when this returns."""
    with said_of_disk(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def finished_lines(path: Path) -> list[dict[str, Any]]:
    """The rows that an earlier run finished; one cut short by a kill is dropped from the file."""
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    with said_of_disk(path), path.open("rb+") as file:
        file.truncate(len(whole) + 1 if whole else 0)
    return [json.loads(line) for line in whole.split(b"\n") if line]
