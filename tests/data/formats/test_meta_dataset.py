"""Each Meta-Dataset reader on a small fabricated folder of the set's own layout (the real sets were not at hand)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from PIL import Image
from scipy.io import savemat

from fewsight.data.decode import decode
from fewsight.data.formats.meta_dataset.coco import enlarged_box
from fewsight.data.formats.meta_dataset.find import READERS, MissingSource, SourcePhotos, find_source
from fewsight.data.splits import META_DATASET_SOURCES, class_split, meta_dataset_images
from fewsight.errors import InvalidInput, UnreadableImage

EACH = 2  # photos a class


def save(path: Path, value: int = 40, size: tuple[int, int] = (24, 18)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def classes_of(source: str) -> list[str]:
    return list(meta_dataset_images(source, "test"))


def ilsvrc(data: Path) -> None:
    for name in classes_of("ilsvrc_2012"):
        for number in range(EACH):
            save(data / "ILSVRC" / "Data" / "CLS-LOC" / "train" / name / f"{name}_{number}.JPEG")
    duplicates = [
        one for those in class_split("meta_dataset_ilsvrc_2012_duplicates").values() for one in those
    ]
    held = next(one for one in duplicates if one.split("_")[0] in classes_of("ilsvrc_2012"))
    save(data / "ILSVRC" / "Data" / "CLS-LOC" / "train" / held.split("_")[0] / held)  # is left out


def omniglot(data: Path) -> None:
    for name in classes_of("omniglot"):
        alphabet, _, character = name.rpartition("-")
        for number in range(EACH):
            save(
                data / "omniglot" / "images_evaluation" / alphabet / character / f"{number}.png", 255, (5, 5)
            )


def aircraft(data: Path) -> None:
    place = data / "fgvc-aircraft-2013b" / "data"
    boxes, parts = [], {part: [] for part in ("train", "val", "test")}
    for number, name in enumerate(classes_of("aircraft")):
        for shot in range(EACH):
            image = f"{1000 * number + shot:07d}"
            save(place / "images" / f"{image}.jpg", 40, (60, 50))
            boxes.append(f"{image} 5 4 25 34")
            parts[("train", "val", "test")[(number + shot) % 3]].append(f"{image} {name}")
    (place / "images_box.txt").write_text("\n".join(boxes) + "\n")
    for part, lines in parts.items():
        (place / f"images_variant_{part}.txt").write_text("\n".join([*lines, "0000001 A380"]) + "\n")


def cu_birds(data: Path) -> None:
    for name in classes_of("cu_birds"):
        for number in range(EACH):
            save(data / "CUB_200_2011" / "images" / name / f"{number}.jpg")


def dtd(data: Path) -> None:
    for name in classes_of("dtd"):
        for number in range(EACH):
            save(data / "dtd" / "images" / name / f"{name}_{number}.jpg")
        (data / "dtd" / "images" / name / ".directory").write_text("[Dolphin]")


def quickdraw(data: Path) -> None:
    (data / "quickdraw").mkdir()
    for number, name in enumerate(classes_of("quickdraw")):
        drawings = numpy.full((EACH, 784), number, dtype=numpy.uint8)
        drawings[1, 3] = 250
        numpy.save(data / "quickdraw" / f"{name}.npy", drawings)


def fungi(data: Path) -> None:
    place = data / "fgvcx_fungi"
    files = {"train.json": [], "val.json": []}
    for number, name in enumerate(classes_of("fungi")):
        for shot, part in enumerate(files):
            file = f"images/{name[:4]}/{shot}.JPG"
            save(place / file)
            files[part].append((10 * number + shot, file, int(name[:4])))
    for part, rows in files.items():
        content = {
            "images": [{"id": image, "file_name": file} for image, file, _ in rows],
            "annotations": [{"image_id": image, "category_id": category} for image, _, category in rows],
        }
        (place / part).write_text(json.dumps(content))


def vgg_flower(data: Path) -> None:
    numbers = [int(name[:3]) for name in classes_of("vgg_flower")]
    labels = [1, *numbers * EACH]
    for place in range(len(labels)):
        save(data / "flowers" / "jpg" / f"image_{place + 1:05d}.jpg")
    savemat(data / "flowers" / "imagelabels.mat", {"labels": numpy.array([labels], dtype=numpy.uint8)})


def traffic_sign(data: Path) -> None:
    for number in range(43):
        folder = data / "GTSRB" / "Final_Training" / "Images" / f"{number:05d}"
        for shot in range(EACH):
            save(folder / f"00000_{shot:05d}.ppm", 7)
        (folder / f"GT-{number:05d}.csv").write_text("Filename;Width\n")


def mscoco(data: Path) -> None:
    names = ["person", *classes_of("mscoco")]
    annotations = []
    for number in range(len(names)):
        for shot in range(EACH):
            box = [10, 20, 10, 20]
            annotations.append({"image_id": shot, "category_id": 2 * number, "bbox": box, "iscrowd": shot})
    annotations.append({"image_id": 0, "category_id": 2, "bbox": [500, 500, 3, 3]})  # outside: no photo
    for shot in range(EACH):
        save(data / "coco" / "train2017" / f"{shot:012d}.jpg", 40, (100, 80))
    (data / "coco" / "annotations").mkdir()
    content = {
        "images": [
            {"id": shot, "file_name": f"{shot:012d}.jpg", "width": 100, "height": 80} for shot in range(EACH)
        ],
        "annotations": annotations,
        "categories": [{"id": 2 * number, "name": name} for number, name in enumerate(names)],
    }
    (data / "coco" / "annotations" / "instances_train2017.json").write_text(json.dumps(content))


WRITERS: dict[str, Callable[[Path], None]] = {
    "ilsvrc_2012": ilsvrc,
    "omniglot": omniglot,
    "aircraft": aircraft,
    "cu_birds": cu_birds,
    "dtd": dtd,
    "quickdraw": quickdraw,
    "fungi": fungi,
    "vgg_flower": vgg_flower,
    "traffic_sign": traffic_sign,
    "mscoco": mscoco,
}


def found(data: Path, source: str) -> SourcePhotos:
    photos = find_source(data, source)
    assert isinstance(photos, SourcePhotos), photos
    return photos


@pytest.mark.parametrize("source", META_DATASET_SOURCES)
def test_every_reader_finds_its_test_classes(tmp_path: Path, source: str) -> None:
    WRITERS[source](tmp_path)
    photos = found(tmp_path, source)
    assert list(photos.classes) == classes_of(source)
    assert photos.counts.tolist() == [EACH] * len(photos.classes)
    assert [rows.tolist() for rows in photos.by_class()][1] == [EACH, EACH + 1]
    assert len({photos.name(row) for row in range(len(photos))}) == len(photos)
    assert photos.name(0).startswith(f"{source}/")
    for row in (0, len(photos) - 1):
        assert decode(photos[row]).image.size
    chosen = photos.select([len(photos) - 1, 0])
    assert len(chosen) == 2
    assert decode(chosen[1]).image.shape == decode(photos[0]).image.shape
    assert any("in the published set" in note for note in photos.notes)
    with pytest.raises(IndexError):
        photos.item(len(photos))


def test_what_the_conversion_does_to_a_photo(tmp_path: Path) -> None:
    for source in ("omniglot", "aircraft", "quickdraw", "traffic_sign", "mscoco"):
        WRITERS[source](tmp_path)
    assert decode(found(tmp_path, "omniglot")[0]).image.max() == 0  # white paper becomes black
    assert decode(found(tmp_path, "aircraft")[0]).image.shape == (30, 20, 3)
    drawings = found(tmp_path, "quickdraw")
    assert drawings.item(3).row == 1
    assert decode(drawings[3]).image[0, 3].tolist() == [250] * 3  # not inverted
    assert decode(drawings[3]).image[0, 4].tolist() == [1] * 3
    assert decode(found(tmp_path, "traffic_sign")[5]).image.tolist()[0][0] == [7, 7, 7]
    assert decode(found(tmp_path, "mscoco")[0]).image.shape == (25, 13, 3)


def test_boxes_are_enlarged_by_a_fifth_and_kept_inside() -> None:
    assert enlarged_box(10, 20, 10, 20, (100, 100)) == (8, 18, 21, 43)
    assert enlarged_box(0, 0, 100, 50, (100, 50)) == (0, 0, 100, 50)


def test_class_folders_named_as_in_the_list(tmp_path: Path) -> None:
    for name in classes_of("aircraft"):
        for number in range(3):
            save(tmp_path / "aircraft" / name.replace("/", "_") / f"{number}.png", 9 * number)
    photos = found(tmp_path, "aircraft")
    assert list(photos.classes) == classes_of("aircraft")
    assert any("neither cropped nor inverted" in note for note in photos.notes)
    assert isinstance(find_source(tmp_path / "aircraft", "aircraft"), SourcePhotos)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    absent = find_source(tmp_path, "dtd")
    assert isinstance(absent, MissingSource)
    assert "dtd not found" in absent.sentence
    assert "images/banded/*.jpg" in absent.sentence
    dtd(tmp_path)
    first = classes_of("dtd")[0]
    (tmp_path / "dtd" / "images" / first / f"{first}_0.jpg").unlink()
    partly = find_source(tmp_path, "dtd")
    assert isinstance(partly, MissingSource)
    assert (
        f"1 of 7 test classes have no two photos in {tmp_path / 'dtd'}, the first is 'banded'"
        in partly.sentence
    )


def test_damaged_and_hostile_files_are_one_sentence(tmp_path: Path) -> None:
    aircraft(tmp_path)
    box = tmp_path / "fgvc-aircraft-2013b" / "data" / "images_box.txt"
    box.write_text("0000000 5 4 left 34\n")
    with pytest.raises(InvalidInput, match="four whole numbers"):
        find_source(tmp_path, "aircraft")
    quickdraw(tmp_path)
    (tmp_path / "quickdraw" / "angel.npy").write_text("renamed text")
    with pytest.raises(InvalidInput, match="no NumPy array"):
        find_source(tmp_path, "quickdraw")
    vgg_flower(tmp_path)
    (tmp_path / "flowers" / "imagelabels.mat").write_text("renamed text")
    with pytest.raises(InvalidInput, match="no MATLAB file"):
        find_source(tmp_path, "vgg_flower")
    mscoco(tmp_path)
    path = tmp_path / "coco" / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text().replace("000000000000.jpg", "../../../secret.jpg"))
    with pytest.raises(InvalidInput, match="leads out of"):
        find_source(tmp_path, "mscoco")
    traffic_sign(tmp_path)
    sign = tmp_path / "GTSRB" / "Final_Training" / "Images" / "00000" / "00000_00000.ppm"
    sign.write_bytes(sign.read_bytes()[:40])
    with pytest.raises(UnreadableImage, match="damaged"):
        found(tmp_path, "traffic_sign")[0]


def test_every_source_has_a_reader() -> None:
    assert tuple(READERS) == META_DATASET_SOURCES
