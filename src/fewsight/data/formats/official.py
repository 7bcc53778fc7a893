"""Data sets with official splits, read from the files that their authors publish: CUB-200-2011, Flowers, Pets.

    CUB_200_2011/    images.txt, image_class_labels.txt, train_test_split.txt, classes.txt, images/
    FLOWERS/         imagelabels.mat, setid.mat, jpg/       (Oxford 102: 1,020 train, 1,020 val, 6,149 test)
    PETS/            annotations/trainval.txt, annotations/test.txt, images/                    (Oxford-IIIT)

Ids in all of them count from 1; photos are opened by their content, whatever their suffix says. Pets has no validation
photos of its own, and its breeds are numbered over cats and dogs together; Flowers names no class, so classes are
numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fewsight.data.label_table import LabelFile, LabelRow, label_file
from fewsight.errors import InvalidInput

__all__ = ["find_official"]

FLOWER_SPLITS = (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
FLOWER_FILES = {
    "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
    "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
}
SIZES = {"CUB-200-2011": 11_788, "Oxford 102 flowers": 8_189, "Oxford-IIIT pets": 7_349}


def find_official(folder: Path) -> LabelFile | None:
    """The labels and splits of a folder laid out as one of these sets; None for any other.

    Raises:
        InvalidInput: a file of labels is damaged; the message names it, and the line.
    """
    if all(
        (folder / name).is_file() for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt")
    ):
        return _checked("CUB-200-2011", folder / "images.txt", _cub(folder))
    flowers = [folder / name for name in FLOWER_FILES]
    if all(path.is_file() for path in flowers) and (folder / "jpg").is_dir():
        changed = [path.name for path in flowers if _md5(path) != FLOWER_FILES[path.name]]
        notes = [f"{name} is not the published file (its MD5 differs)." for name in changed]
        return _checked("Oxford 102 flowers", folder / "imagelabels.mat", _flowers(folder), notes)
    lists = folder / "annotations"
    if (lists / "trainval.txt").is_file() and (lists / "test.txt").is_file() and (folder / "images").is_dir():
        return _checked("Oxford-IIIT pets", lists / "trainval.txt", _pets(folder))
    return None


def _checked(name: str, path: Path, rows: Iterator[LabelRow], notes: list[str] | None = None) -> LabelFile:
    read = list(rows)
    warnings = list(notes or [])
    if len(read) != SIZES[name]:
        warnings.append(
            f"{len(read):,} photos are listed; {name} has {SIZES[name]:,}: figures are not those of the whole set."
        )
    return label_file(path, read, warnings)


def _cub(folder: Path) -> Iterator[LabelRow]:
    names = _numbered(folder / "images.txt", str)
    classes = _numbered(folder / "image_class_labels.txt", int)
    trained = _numbered(folder / "train_test_split.txt", int)
    titles = _numbered(folder / "classes.txt", str) if (folder / "classes.txt").is_file() else {}
    for number, (where, name) in names.items():
        for file, held in (("image_class_labels.txt", classes), ("train_test_split.txt", trained)):
            if number not in held:
                raise InvalidInput(f"{folder / file} lacks image {number}, which images.txt names.")
        k = classes[number][1]
        title = titles[k][1] if k in titles else f"{k:03}"
        split = "train" if trained[number][1] == 1 else "test"
        yield LabelRow(where, f"images/{name}", (title,), split=split)


def _numbered(path: Path, kind: Callable[[str], Any]) -> dict[int, tuple[str, Any]]:
    """Lines "id value" as id -> (where, value)."""
    held: dict[int, tuple[str, Any]] = {}
    for number, line in enumerate(_lines(path), 1):
        parts = line.split(maxsplit=1)
        if not parts:
            continue
        try:
            held[int(parts[0])] = (f"line {number}", kind(parts[1].strip()))
        except (ValueError, IndexError) as error:
            raise InvalidInput(f"{path}, line {number}: {line!r} is not an id and a value.") from error
    return held


def _flowers(folder: Path) -> Iterator[LabelRow]:
    labels = _matrix(folder / "imagelabels.mat", "labels")
    splits = {
        int(number): split
        for split, key in FLOWER_SPLITS
        for number in _matrix(folder / "setid.mat", key).tolist()
    }
    for place, k in enumerate(labels.tolist(), 1):
        if place in splits:
            yield LabelRow(
                f"image {place}", f"jpg/image_{place:05}.jpg", (f"{int(k):03}",), split=splits[place]
            )


def _matrix(path: Path, key: str) -> Any:
    """One row of numbers of a MATLAB file."""
    from scipy.io import loadmat

    try:
        held = loadmat(path, variable_names=[key])[key]
    except Exception as error:  # damage shows as many kinds
        raise InvalidInput(f"{path} is no MATLAB file with {key!r} ({error}); fetch it again.") from error
    return held.reshape(-1)


def _pets(folder: Path) -> Iterator[LabelRow]:
    for split, name in (("train", "trainval.txt"), ("test", "test.txt")):
        path = folder / "annotations" / name
        for number, line in enumerate(_lines(path), 1):
            if not line.strip() or line.startswith("#"):
                continue
            image = line.split()[0]
            breed, _, digits = image.rpartition("_")
            if not breed or not digits.isdigit() or len(line.split()) < 2:
                raise InvalidInput(f"{path}, line {number}: {line!r} is not NAME_NUMBER CLASS SPECIES BREED.")
            yield LabelRow(f"{name}, line {number}", f"images/{image}.jpg", (breed,), split=split)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
