"""CIFAR in all its published forms: small fabricated folders, and the real photos of CIFAR-100."""

from __future__ import annotations

import io
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy
import pytest
from PIL import Image

from conftest import need
from fewsight.data.formats.cifar import cifar_folder, is_cifar, read_batches
from fewsight.data.layouts import read_layout
from fewsight.errors import InvalidInput

TEN = ("airplane", "automobile", "bird")


def photos(count: int, seed: int) -> numpy.ndarray:
    return numpy.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=numpy.uint8)


def dump(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=2))


def ten(folder: Path) -> Path:
    for number in range(1, 6):
        batch = {b"data": photos(3, number), b"labels": [0, 1, 2], b"batch_label": b"training"}
        dump(folder / f"data_batch_{number}", batch)
    dump(folder / "test_batch", {b"data": photos(2, 9), b"labels": [2, 0]})
    dump(folder / "batches.meta", {b"label_names": [name.encode() for name in TEN]})
    return folder


def ten_binary(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, labels, seed in (
        *((f"data_batch_{n}.bin", [0, 1, 2], n) for n in range(1, 6)),
        ("test_batch.bin", [2, 0], 9),
    ):
        rows = numpy.column_stack([numpy.array(labels, numpy.uint8), photos(len(labels), seed)])
        rows.tofile(folder / name)
    (folder / "batches.meta.txt").write_text("\n".join(TEN) + "\n\n")
    return folder


def test_python_and_binary_version_hold_the_same(tmp_path: Path) -> None:
    one, other = (list(read_batches(make(tmp_path / make.__name__))) for make in (ten, ten_binary))
    assert len(one) == len(other) == 17
    for (split, name, pixels), (split_too, name_too, pixels_too) in zip(one, other, strict=True):
        assert (split, name) == (split_too, name_too)
        assert numpy.array_equal(pixels, pixels_too)
    first = photos(3, 1)[0].reshape(3, 32, 32)
    assert numpy.array_equal(one[0][2], first.transpose(1, 2, 0)), "planes of red, green, blue, row by row"


def test_layouts_read_it_with_its_splits(tmp_path: Path) -> None:
    collection = read_layout(ten(tmp_path / "cifar-10-batches-py")).collection
    assert collection.classes == TEN
    assert Counter(photo.split for photo in collection) == {"train": 15, "test": 2}
    pixels = numpy.asarray(Image.open(collection.path(0)))
    assert any(
        numpy.array_equal(pixels, held) for _, _, held in read_batches(tmp_path / "cifar-10-batches-py")
    )
    again = read_layout(tmp_path / "cifar-10-batches-py").collection
    assert again.root == collection.root, "unpacked once"


def test_hundred_takes_the_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    names = {"fine_label_names": ["apple", "bear"], "coarse_label_names": ["fruit", "animal"]}
    dump(folder / "meta", names)
    for name in ("train", "test"):
        dump(folder / name, {"data": photos(2, 1), "fine_labels": [1, 0], "coarse_labels": [0, 0]})
    assert [name for _, name, _ in read_batches(folder)] == ["bear", "apple"] * 2
    binary = tmp_path / "cifar-100-binary"
    binary.mkdir()
    rows = numpy.column_stack([numpy.array([[0, 1], [0, 0]], numpy.uint8), photos(2, 1)])
    for name in ("train.bin", "test.bin"):
        rows.tofile(binary / name)
    (binary / "fine_label_names.txt").write_text("apple\nbear\n")
    assert [name for _, name, _ in read_batches(binary)] == ["bear", "apple"] * 2


def test_real_photos_of_cifar100_come_back_as_they_are(shared: Path, tmp_path: Path) -> None:
    held = numpy.load(need(shared / "data" / "cifar100.npz"))
    blob, offset, tested = held["blob"], held["offset"], held["test"]
    names = [str(name) for name in held["fine_names"]]
    chosen = {
        "train": numpy.flatnonzero(~tested)[::2500],
        "test": numpy.flatnonzero(tested)[::1000],
    }
    pixels = {}
    folder = tmp_path / "cifar-100-python"
    dump(folder / "meta", {"fine_label_names": names})
    for split, rows in chosen.items():
        decoded = [
            numpy.asarray(
                Image.open(io.BytesIO(blob[offset[row] : offset[row + 1]].tobytes())).convert("RGB")
            )
            for row in rows
        ]
        pixels[split] = decoded
        planes = numpy.stack([picture.transpose(2, 0, 1).reshape(-1) for picture in decoded])
        dump(folder / split, {"data": planes, "fine_labels": held["fine"][rows].tolist()})
    for split, name, found in read_batches(folder):
        row = len(chosen[split]) - len(pixels[split])
        assert name == names[held["fine"][chosen[split][row]]]
        assert numpy.array_equal(found, pixels[split].pop(0))
    collection = read_layout(folder).collection
    assert len(collection) == 30
    assert set(collection.classes) <= set(names)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.system, ("touch executed",)


def test_nothing_in_a_pickle_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = ten(tmp_path / "cifar")
    dump(folder / "data_batch_3", {"data": photos(1, 0), "labels": Evil()})
    with pytest.raises(InvalidInput, match=r"data_batch_3 is not a file of CIFAR .*system is not allowed"):
        read_layout(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "test_batch").write_bytes(b"\x80\x02damaged"), "is not a file of CIFAR"),
        (lambda folder: dump(folder / "test_batch", [1]), "holds list"),
        (lambda folder: dump(folder / "test_batch", {"data": photos(2, 0)}), "holds no photos and labels"),
        (lambda folder: dump(folder / "test_batch", {"data": photos(2, 0), "labels": [0]}), "do not fit"),
        (lambda folder: dump(folder / "test_batch", {"data": photos(2, 0), "labels": [0, 7]}), "do not fit"),
        (lambda folder: dump(folder / "batches.meta", {"num_cases_per_batch": 10000}), "names no classes"),
    ],
)
def test_damage_is_named(change: object, message: str, tmp_path: Path) -> None:
    folder = ten(tmp_path / "cifar")
    change(folder)  # type: ignore[operator]
    with pytest.raises(InvalidInput, match=message):
        list(read_batches(folder))


def test_cut_binary_files_and_other_folders(tmp_path: Path) -> None:
    folder = ten_binary(tmp_path / "binary")
    with (folder / "test_batch.bin").open("ab") as file:
        file.write(b"1234")
    with pytest.raises(InvalidInput, match="no whole number of photos"):
        list(read_batches(folder))
    assert not is_cifar(tmp_path)
    with pytest.raises(InvalidInput, match="is no CIFAR"):
        cifar_folder(tmp_path)
