"""Official splits of CUB, Flowers and Pets, from small folders laid out like the published ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy
import pytest
from PIL import Image
from scipy.io import savemat

from fewsight.data.layouts import read_layout
from fewsight.data.reading import Reading
from fewsight.errors import InvalidInput


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (120, 90, 60)).save(path)


def by_split(reading: Reading) -> dict[tuple[str, str | None], int]:
    return dict(Counter((photo.labels[0], photo.split) for photo in reading.collection))


def cub(folder: Path) -> Path:
    birds = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    images = [f"{bird}/{bird[4:]}_{n:04}.jpg" for bird in birds for n in range(3)]
    for name in images:
        picture(folder / "images" / name)
    (folder / "images.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(images, 1)))
    (folder / "image_class_labels.txt").write_text("".join(f"{n} {1 + (n > 3)}\n" for n in range(1, 7)))
    (folder / "train_test_split.txt").write_text("".join(f"{n} {int(n % 3 != 0)}\n" for n in range(1, 7)))
    (folder / "classes.txt").write_text("".join(f"{n} {bird}\n" for n, bird in enumerate(birds, 1)))
    (folder / "bounding_boxes.txt").write_text("1 0.0 0.0 8.0 8.0\n")
    return folder


def test_cub(tmp_path: Path) -> None:
    reading = read_layout(cub(tmp_path / "CUB_200_2011"))
    assert by_split(reading) == {
        ("001.Black_footed_Albatross", "train"): 2,
        ("001.Black_footed_Albatross", "test"): 1,
        ("002.Laysan_Albatross", "train"): 2,
        ("002.Laysan_Albatross", "test"): 1,
    }
    assert reading.collection.classes[0] == "001.Black_footed_Albatross"
    assert "6 photos are listed; CUB-200-2011 has 11,788" in reading.warnings[0]


def flowers(folder: Path) -> Path:
    for number in range(1, 8):
        picture(folder / "jpg" / f"image_{number:05}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": numpy.array([[77, 77, 77, 1, 1, 1, 1]], numpy.uint8)})
    sets = {"trnid": [[1, 4]], "valid": [[2, 5]], "tstid": [[3, 6, 7]]}
    savemat(folder / "setid.mat", {key: numpy.array(value, numpy.uint16) for key, value in sets.items()})
    return folder


def test_flowers(tmp_path: Path) -> None:
    reading = read_layout(flowers(tmp_path / "flowers"))
    assert by_split(reading) == {
        ("077", "train"): 1, ("077", "val"): 1, ("077", "test"): 1,
        ("001", "train"): 1, ("001", "val"): 1, ("001", "test"): 2,
    }  # fmt: skip
    assert any("imagelabels.mat is not the published file" in warning for warning in reading.warnings)


def pets(folder: Path) -> Path:
    lists = folder / "annotations"
    lists.mkdir(parents=True)
    rows = {
        "trainval.txt": ("Abyssinian_1", "Abyssinian_2", "great_pyrenees_7"),
        "test.txt": ("Abyssinian_3",),
    }
    for name, images in rows.items():
        lines = ["#Image CLASS-ID SPECIES BREED ID", *(f"{image} 1 1 1" for image in images)]
        (lists / name).write_text("\n".join(lines) + "\n")
        for image in images:
            picture(folder / "images" / f"{image}.jpg")
    picture(lists / "trimaps" / "Abyssinian_1.png")
    return folder


def test_pets(tmp_path: Path) -> None:
    assert by_split(read_layout(pets(tmp_path / "pets"))) == {
        ("Abyssinian", "train"): 2,
        ("great_pyrenees", "train"): 1,
        ("Abyssinian", "test"): 1,
    }


def test_damage_is_named_with_its_place(tmp_path: Path) -> None:
    birds = cub(tmp_path / "birds")
    (birds / "image_class_labels.txt").write_text("1 1\n2 one\n")
    with pytest.raises(InvalidInput, match=r"image_class_labels\.txt, line 2: '2 one'"):
        read_layout(birds)
    (birds / "image_class_labels.txt").write_text("1 1\n")
    with pytest.raises(InvalidInput, match=r"image_class_labels\.txt lacks image 2"):
        read_layout(birds)
    plants = flowers(tmp_path / "plants")
    (plants / "setid.mat").write_bytes(b"not a matrix")
    with pytest.raises(InvalidInput, match=r"setid\.mat is no MATLAB file"):
        read_layout(plants)
    animals = pets(tmp_path / "animals")
    (animals / "annotations" / "test.txt").write_text("Abyssinian 1 1 1\n")
    with pytest.raises(InvalidInput, match=r"test\.txt, line 1"):
        read_layout(animals)


def test_other_folders_are_none_of_these(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "images.txt" / "1.png")
    picture(tmp_path / "photos" / "other" / "1.png")
    assert read_layout(tmp_path / "photos").layout == "class folders"
