"""What `adapt` reads: unreadable photos, copies and contradictions are left out and named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from photo_folders import write_labelled

from fewsight.data.stored_photos import store_photos
from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput, UnreadableImage
from fewsight.workflows.adapt_data import read_labelled_data, usable_labels

TRANSFORM = Transform(size=(32, 32))


def labels_of(photos: Path, folder: Path, *, strict: bool = False) -> tuple[dict[str, int], tuple[str, ...]]:
    data = read_labelled_data(photos)
    store = store_photos(data.collection, TRANSFORM, folder, workers=1)
    labels, remarks = usable_labels(data, store, strict=strict)
    return {data.collection.file(row): int(label) for row, label in enumerate(labels)}, remarks


def test_good_photos_all_serve(tmp_path: Path) -> None:
    labels, remarks = labels_of(write_labelled(tmp_path / "photos", 2), tmp_path / "store")
    assert sorted(labels.values()) == [0, 0, 1, 1, 2, 2]
    assert remarks == ()


def test_unreadable_photos_are_left_out_and_named(tmp_path: Path) -> None:
    photos = write_labelled(tmp_path / "photos", 2)
    (photos / "dots" / "broken.jpg").write_bytes(b"<html>not found</html>")
    labels, remarks = labels_of(photos, tmp_path / "store")
    assert labels["dots/broken.jpg"] == -1
    assert "1 photo cannot be read and is left out, the first is dots/broken.jpg" in remarks[0]
    with pytest.raises(UnreadableImage, match=r"dots/broken\.jpg"):
        labels_of(photos, tmp_path / "store", strict=True)


def test_copies_serve_once_and_contradictions_not_at_all(tmp_path: Path) -> None:
    photos = write_labelled(tmp_path / "photos", 2)
    shutil.copy(photos / "dots" / "0.png", photos / "dots" / "copy.png")
    shutil.copy(photos / "plain" / "0.png", photos / "stripes" / "wrong.png")
    labels, remarks = labels_of(photos, tmp_path / "store")
    assert (labels["dots/0.png"], labels["dots/copy.png"]) == (0, -1)
    assert (labels["plain/0.png"], labels["stripes/wrong.png"]) == (-1, -1)
    assert remarks[0].startswith("2 photos with the same picture under different labels")
    assert remarks[1] == "1 further copy of a photo left out."


def test_of_copies_the_test_photo_stays(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_labelled(tmp_path / "photos" / split, 1)
    shutil.copy(tmp_path / "photos/test/dots/0.png", tmp_path / "photos/train/dots/0.png")
    labels, _ = labels_of(tmp_path / "photos", tmp_path / "store")
    assert labels["train/dots/0.png"] == -1
    assert labels["test/dots/0.png"] >= 0


def test_nothing_readable_and_several_labels_are_errors(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "1.jpg").write_bytes(b"no photo")
    with pytest.raises(InvalidInput, match="none of 2 photos can be read"):
        labels_of(tmp_path / "broken", tmp_path / "store")
    photos = write_labelled(tmp_path / "photos", 1)
    (photos / "index.csv").write_text("image,labels\ndots/0.png,dots;plain\n")
    with pytest.raises(InvalidInput, match="one label"):
        read_labelled_data(photos)
