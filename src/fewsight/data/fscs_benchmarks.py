"""Pascal-5i, COCO-20i and FSS-1000 from folders as people have them, with the published lists.

    Pascal-5i   VOC2012/JPEGImages/2007_000033.jpg, VOC2012/SegmentationClassAug/2007_000033.png (VOC2012 with SBD)
    COCO-20i    COCO2014/train2014/COCO_train2014_000000000009.jpg, COCO2014/annotations/train2014/<same>.png, and
                val2014 alike (masks of class numbers 1..80, as the authors of HSNet give them)
    FSS-1000    FSS-1000/abacus/1.jpg, FSS-1000/abacus/1.png

The folder may be named otherwise, or be one above. Sources of the lists: `data/splits`. Masks: 255 is void (Pascal);
of FSS-1000 a pixel is foreground from 128 on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy
from numpy.typing import NDArray

from fewsight.data.collection import Collection, Photo, Row
from fewsight.data.fscs_episodes import published_fscs_episode
from fewsight.data.masks import IGNORED, mask_values
from fewsight.data.splits import class_split, coco20i_images, pascal5i_images
from fewsight.errors import InvalidInput

__all__ = ["BENCHMARKS", "Benchmark", "BenchmarkEpisode", "find_benchmark", "read_benchmark"]

Name = Literal["pascal-5i", "coco-20i", "fss-1000"]
BENCHMARKS: tuple[Name, ...] = ("pascal-5i", "coco-20i", "fss-1000")
FOLDS = {"pascal-5i": 4, "coco-20i": 4, "fss-1000": 1}
PUBLISHED_EPISODES = 1000
CUT = 128
Integers = NDArray[numpy.int64]


class BenchmarkEpisode(NamedTuple):
    """Rows of the query and of each way's supports; `ways` are class ids of the collection."""

    query: int
    ways: tuple[int, ...]
    supports: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Benchmark:
    """One part of one fold.

    Attributes:
        name: which.
        fold: 0 to 3 (FSS-1000: 0).
        collection: the photos of its lists, with their masks; labels are those of the lists.
        classes: class ids of the fold's own classes (test) or of those that are trained on.
        rows_of: image number or name -> row.
    """

    name: Name
    fold: int
    collection: Collection
    classes: tuple[int, ...]
    rows_of: dict[int | str, int]

    def label_map(self, photo: Photo, size: tuple[int, int]) -> NDArray[numpy.int16]:
        """The mask [H, W]: 0 background, k + 1 = class k of the collection, -1 void.

        Raises:
            InvalidInput: it is missing, unreadable, or of another size than the photo.
        """
        if photo.mask is None:
            raise InvalidInput(f"{photo.file} has no mask.")
        values = mask_values(photo.mask)
        if values.shape != tuple(size):
            raise InvalidInput(
                f"mask {photo.mask} has {values.shape[1]} x {values.shape[0]} pixels, its photo {size[1]} x {size[0]}."
            )
        if self.name == "fss-1000":
            number = self.collection.classes.index(photo.labels[0])
            return numpy.where(values >= CUT, number + 1, 0).astype(numpy.int16)
        return numpy.where(values == 255, IGNORED, values).astype(numpy.int16)

    def episodes(self, way: int, shot: int, count: int | None = None) -> Iterator[BenchmarkEpisode]:
        """The published test episodes: 1,000 of a fold (FSS-1000: each of its 2,400 photos is a query once)."""
        if self.name == "fss-1000":
            yield from _fss_episodes(self, shot, count)
            return
        short: Literal["pascal", "coco"] = "pascal" if self.name == "pascal-5i" else "coco"
        for index in range(count or PUBLISHED_EPISODES):
            drawn = published_fscs_episode(index, benchmark=short, fold=self.fold, way=way, shot=shot)
            supports = tuple(tuple(self.rows_of[int(one)] for one in row) for row in drawn.support)
            ways = tuple(int(number) - 1 for number in drawn.support_classes)
            yield BenchmarkEpisode(self.rows_of[drawn.query], ways, supports)


def find_benchmark(folder: str | Path) -> tuple[Name, Path] | None:
    """Which benchmark a folder holds, and where its root is; None where it holds none."""
    folder = Path(folder)
    for place in (folder, folder / "VOC2012", folder / "VOCdevkit" / "VOC2012"):
        if (place / "JPEGImages").is_dir() and (place / "SegmentationClassAug").is_dir():
            return "pascal-5i", place
    for place in (folder, folder / "COCO2014"):
        if (place / "val2014").is_dir() and (place / "annotations" / "val2014").is_dir():
            return "coco-20i", place
    for place in (folder, folder / "FSS-1000"):
        if (place / "abacus").is_dir() and (place / "zucchini").is_dir():
            return "fss-1000", place
    return None


def read_benchmark(
    folder: str | Path, name: Name, *, fold: int = 0, part: Literal["train", "test"] = "test"
) -> Benchmark:
    """The photos of one part of a fold. The test part of Pascal-5i fold f has the classes of f, the training part those
    of the other three folds.

    Raises:
        InvalidInput: the folder is laid out otherwise, there is no such fold, or listed files are missing.
    """
    found = find_benchmark(folder)
    if found is None or found[0] != name:
        raise InvalidInput(f"{folder} is not laid out as {name}. Expected: {LAYOUTS[name]}")
    if not 0 <= fold < FOLDS[name]:
        raise InvalidInput(f"fold is {fold}; {name} has folds 0 to {FOLDS[name] - 1}.")
    if name == "fss-1000":
        return _fss(found[1], part)
    reader = _pascal_lists if name == "pascal-5i" else _coco_lists
    names = class_split("pascal5i" if name == "pascal-5i" else "coco20i")["classes"]
    classes = tuple(names[str(number)] for number in range(1, len(names) + 1))
    labels = reader(fold, part)
    return _benchmark(found[1], name, fold, classes, labels, PLACES[name, part])


LAYOUTS = {
    "pascal-5i": "JPEGImages/*.jpg and SegmentationClassAug/*.png of VOC2012 (with SBD).",
    "coco-20i": "train2014/*.jpg, val2014/*.jpg and annotations/train2014/*.png, annotations/val2014/*.png.",
    "fss-1000": "a folder for each of the 1,000 classes with 1.jpg to 10.jpg and 1.png to 10.png.",
}


def _pascal_place(image: int) -> tuple[str, str]:
    stem = f"{image // 1_000_000}_{image % 1_000_000:06d}"
    return f"JPEGImages/{stem}.jpg", f"SegmentationClassAug/{stem}.png"


def _coco_place(part: str) -> Callable[[int], tuple[str, str]]:
    def place(image: int) -> tuple[str, str]:
        stem = f"COCO_{part}_{image:012d}"
        return f"{part}/{stem}.jpg", f"annotations/{part}/{stem}.png"

    return place


PLACES = {
    ("pascal-5i", "train"): _pascal_place,
    ("pascal-5i", "test"): _pascal_place,
    ("coco-20i", "train"): _coco_place("train2014"),
    ("coco-20i", "test"): _coco_place("val2014"),
}


def _pascal_lists(fold: int, part: str) -> dict[int, list[int]]:
    """Image -> classes (1..20), in the order of the lists."""
    labels: dict[int, list[int]] = {}
    for one in _listed_folds(fold, part):
        images, classes = pascal5i_images("val" if part == "test" else "train", one)
        for image, number in zip(images.tolist(), classes.tolist(), strict=True):
            labels.setdefault(image, []).append(number)
    return labels


def _coco_lists(fold: int, part: str) -> dict[int, list[int]]:
    labels: dict[int, list[int]] = {}
    for one in _listed_folds(fold, part):
        for number, images in coco20i_images("val" if part == "test" else "train", one).items():
            for image in images.tolist():
                labels.setdefault(image, []).append(number)
    return labels


def _listed_folds(fold: int, part: str) -> list[int]:
    return [fold] if part == "test" else [other for other in range(4) if other != fold]


def _benchmark(
    root: Path,
    name: Name,
    fold: int,
    classes: tuple[str, ...],
    labels: dict[int, list[int]],
    place: Callable[[int], tuple[str, str]],
) -> Benchmark:
    rows = []
    for image, numbers in labels.items():
        photo, mask = place(image)
        rows.append(Row(photo.encode(), [classes[k - 1] for k in dict.fromkeys(numbers)], mask.encode()))
    _check_there(root, rows)
    collection = Collection.from_rows(root, rows, classes=classes)
    own = sorted({number - 1 for numbers in labels.values() for number in numbers})
    return Benchmark(name, fold, collection, tuple(own), {image: row for row, image in enumerate(labels)})


def _check_there(root: Path, rows: list[Row]) -> None:
    """The first, the last and some files between: a wrong folder is told at once, without 100,000 looks."""
    for row in rows[:: max(1, len(rows) // 50)]:
        for name in (row.file, row.mask or row.file):
            path = root / name.decode()
            if not path.is_file():
                raise InvalidInput(
                    f"{path} is listed but not there; the published lists need all {len(rows)} photos."
                )


def _fss(root: Path, part: str) -> Benchmark:
    split = class_split("fss1000")["classes"]
    classes = tuple(split[part])
    rows = []
    for name in classes:
        # The order of the published loader: file names sorted as text.
        for stem in sorted(str(number) for number in range(1, 11)):
            rows.append(Row(f"{name}/{stem}.jpg".encode(), [name], f"{name}/{stem}.png".encode()))
    _check_there(root, rows)
    collection = Collection.from_rows(root, rows, classes=classes)
    places: dict[int | str, int] = {row.file.decode()[:-4]: number for number, row in enumerate(rows)}
    return Benchmark("fss-1000", 0, collection, tuple(range(len(classes))), places)


def _fss_episodes(benchmark: Benchmark, shot: int, count: int | None) -> Iterator[BenchmarkEpisode]:
    """As HSNet draws them: one seed before the test, in loader order; shots may repeat, the query is never one."""
    rng = numpy.random.RandomState(0)
    collection = benchmark.collection
    for query in range(min(len(collection), count or len(collection))):
        (number,) = collection.labels_of(query).tolist()
        supports: list[int] = []
        while len(supports) < shot:
            stem = int(rng.choice(range(1, 11), 1, replace=False)[0])
            row = benchmark.rows_of[f"{collection.classes[number]}/{stem}"]
            if row != query:
                supports.append(row)
        yield BenchmarkEpisode(query, (number,), (tuple(supports),))
