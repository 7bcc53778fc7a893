"""VGG Flowers 102: `jpg/image_00001.jpg` and the labels of `imagelabels.mat`; a class is `005.english marigold`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy

from fewsight.data.formats.meta_dataset.items import Found, Item, Reader, in_class_folders
from fewsight.errors import InvalidInput

__all__ = ["FLOWERS"]


def read(folder: Path, classes: Sequence[str]) -> Found:
    """Label n of the file is the class whose name begins with n."""
    labels_file = folder / "imagelabels.mat"
    if not labels_file.is_file():
        return in_class_folders(folder, classes)
    labels = _labels(labels_file)
    found = {}
    for name in classes:
        numbers = numpy.flatnonzero(labels == int(name.partition(".")[0])) + 1
        found[name] = [Item(folder / "jpg" / f"image_{number:05d}.jpg") for number in numbers.tolist()]
    return {name: items for name, items in found.items() if items}


def _labels(path: Path) -> numpy.ndarray:
    """1 .. 102 for each photo; a MATLAB file of numbers, in which nothing is executed."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return numpy.asarray(loadmat(path, variable_names=["labels"])["labels"]).ravel()
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError, MatReadError) as error:
        raise InvalidInput(f"{path} is no MATLAB file with an array `labels` ({error}).") from error


FLOWERS = Reader(
    ("flowers", "flowers-102", "102flowers", "oxford-102-flowers"), "jpg/*.jpg and imagelabels.mat", read
)
