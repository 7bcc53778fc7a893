"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as they are published: pickled arrays, or the binary version.

    cifar-10-batches-py/    data_batch_1 ... data_batch_5, test_batch, batches.meta
    cifar-100-python/       train, test, meta                                             (fine labels)
    cifar-10-batches-bin/   data_batch_1.bin ..., test_batch.bin, batches.meta.txt
    cifar-100-binary/       train.bin, test.bin, fine_label_names.txt

A photo is 3 x 32 x 32 bytes: the red plane row by row, then green, then blue. They are unpacked once into class
folders of PNG files in the cache, with the official splits, so that every verb reads them like any other data. The
pickles are of Python 2; nothing in them is executed: all but NumPy's arrays is refused.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from fewsight.errors import InvalidInput
from fewsight.files import cache_folder, write_text
from fewsight.progress import Progress

__all__ = ["cifar_folder", "is_cifar", "read_batches"]

SIDE = 32
BYTES = 3 * SIDE * SIDE
DONE = "complete.txt"


@dataclass(frozen=True)
class _Version:
    """One published form: its batches by split, its file of names, labels before each photo in the binary form."""

    batches: tuple[tuple[str, tuple[str, ...]], ...]
    names: str
    labels: int = 0


_TEN = tuple(f"data_batch_{number}" for number in range(1, 6))
VERSIONS = (
    _Version((("train", _TEN), ("test", ("test_batch",))), "batches.meta"),
    _Version((("train", ("train",)), ("test", ("test",))), "meta"),
    _Version(
        (("train", tuple(f"{name}.bin" for name in _TEN)), ("test", ("test_batch.bin",))),
        "batches.meta.txt",
        1,
    ),
    _Version((("train", ("train.bin",)), ("test", ("test.bin",))), "fine_label_names.txt", 2),
)


def is_cifar(folder: Path) -> bool:
    """Whether a folder holds one of the four published forms, whole."""
    return _version(folder) is not None


def _version(folder: Path) -> _Version | None:
    for version in VERSIONS:
        files = [version.names, *(name for _, names in version.batches for name in names)]
        if all((folder / name).is_file() for name in files):
            return version
    return None


def cifar_folder(folder: Path) -> Path:
    """Class folders `SPLIT/CLASS/00001.png` of a CIFAR, in the cache; made where they are not there yet.

    Raises:
        InvalidInput: a file is damaged, or holds something else than arrays.
        FewsightError: the disk is full or read-only.
    """
    from PIL import Image

    version = _version(folder)
    if version is None:
        raise InvalidInput(f"{folder} is no CIFAR: expected the files of its Python or binary version.")
    target = cache_folder() / "unpacked" / f"{folder.resolve().name}-{_fingerprint(folder, version)}"
    if (target / DONE).is_file():
        return target
    count = 0
    with Progress("unpacking") as bar:
        for split, name, pixels in read_batches(folder):
            path = target / split / name / f"{count:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            count += 1
            bar.advance()
    write_text(target / DONE, f"{count} photos\n")
    return target


def read_batches(folder: Path) -> Iterator[tuple[str, str, NDArray[numpy.uint8]]]:
    """Split, class name and pixels uint8 `[32, 32, 3]` of each photo, in the order of the files.

    Raises:
        InvalidInput: a file is damaged; the message names it.
    """
    version = _version(folder)
    assert version is not None
    names = _class_names(folder / version.names)
    for split, batches in version.batches:
        for batch in batches:
            path = folder / batch
            data, labels = _binary(path, version.labels) if version.labels else _pickled_batch(path)
            if len(labels) != len(data) or (
                len(labels) and not 0 <= labels.min() <= labels.max() < len(names)
            ):
                raise InvalidInput(
                    f"{path} has labels that do not fit its photos or the {len(names)} class names."
                )
            planes = data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
            for pixels, label in zip(planes, labels.tolist(), strict=True):
                yield split, names[label], numpy.ascontiguousarray(pixels)


def _class_names(path: Path) -> list[str]:
    if path.suffix == ".txt":
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()]
    held = _unpickled(path)
    for key in ("fine_label_names", "label_names"):
        if key in held:
            return [name.decode() if isinstance(name, bytes) else str(name) for name in held[key]]
    raise InvalidInput(f"{path} names no classes; fetch it again.")


def _binary(path: Path, labels: int) -> tuple[NDArray[numpy.uint8], NDArray[numpy.int64]]:
    """Photos and their last label (the fine one) of the binary version."""
    content = numpy.fromfile(path, dtype=numpy.uint8)
    if content.size % (BYTES + labels):
        raise InvalidInput(f"{path} has {content.size:,} bytes, no whole number of photos; fetch it again.")
    rows = content.reshape(-1, BYTES + labels)
    return rows[:, labels:], rows[:, labels - 1].astype(numpy.int64)


def _pickled_batch(path: Path) -> tuple[NDArray[numpy.uint8], NDArray[numpy.int64]]:
    held = _unpickled(path)
    data = held.get("data")
    labels = held.get("fine_labels", held.get("labels"))
    if not isinstance(data, numpy.ndarray) or data.dtype != numpy.uint8 or data.ndim != 2 or labels is None:
        raise InvalidInput(f"{path} holds no photos and labels; fetch it again.")
    if data.shape[1] != BYTES:
        raise InvalidInput(f"{path} has {data.shape[1]} bytes a photo; expected {BYTES}.")
    return data, numpy.asarray(labels, dtype=numpy.int64)


class _ArraysOnly(pickle.Unpickler):
    """Makes NumPy arrays and plain values, and nothing else."""

    ALLOWED = frozenset(
        (module, name)
        for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "ndarray", "dtype")
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED and (module, name) != ("_codecs", "encode"):
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickled(path: Path) -> dict[str, Any]:
    """A pickled table with text keys.

    Raises:
        InvalidInput: it is damaged, or would execute something.
    """
    try:
        held = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # damage shows as many kinds
        raise InvalidInput(f"{path} is not a file of CIFAR ({error}); fetch it again.") from error
    if not isinstance(held, dict):
        raise InvalidInput(f"{path} holds {type(held).__name__}; expected the table of a batch.")
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in held.items()
    }


def _fingerprint(folder: Path, version: _Version) -> str:
    """Of names, sizes and beginnings: reading 180 MB again for each run would take longer than the run."""
    digest = hashlib.blake2b(digest_size=8)
    for name in (version.names, *(name for _, names in version.batches for name in names)):
        path = folder / name
        with path.open("rb") as file:
            digest.update(f"{name}:{path.stat().st_size}:".encode() + file.read(1 << 16))
    return digest.hexdigest()
