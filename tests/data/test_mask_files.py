"""Which file is whose mask."""

from __future__ import annotations

from collections import Counter

import pytest

from fewsight.data.mask_files import is_mask_folder, masks_of, part_masks
from fewsight.data.walk import Folder, list_folder


def test_masks_beside_are_parted_from_photos():
    parted = part_masks(Folder(b"", (b"a.jpg", b"a_mask.png", b"b_mask.png", b"c_mask.jpg", b"c.jpg")))
    assert parted.photos == (b"a.jpg", b"b_mask.png", b"c_mask.jpg", b"c.jpg")
    assert parted.masks == (b"a_mask.png",)


@pytest.mark.parametrize(
    "mask",
    [
        "t/cat/1_mask.png",
        "t/cat/1.jpg_mask.png",
        "t/cat/masks/1.png",
        "t/cat/masks/1.jpg.png",
        "masks/t/cat/1.bmp",
        "t/masks/cat/1.tif",
    ],
)
def test_each_place(tmp_path, write, mask):
    write(tmp_path / "t" / "cat" / "1.jpg")
    write(tmp_path / mask)
    folder = part_masks(list_folder(str(tmp_path), b"t/cat", Counter()))
    assert masks_of(str(tmp_path), folder) == {b"1.jpg": mask.encode()}


def test_the_nearest_place_wins_and_others_have_none(tmp_path, write):
    for name in ("cat/1.jpg", "cat/2.jpg", "cat/masks/1.png", "masks/cat/1.png"):
        write(tmp_path / name)
    folder = part_masks(list_folder(str(tmp_path), b"cat", Counter()))
    assert masks_of(str(tmp_path), folder) == {b"1.jpg": b"cat/masks/1.png"}


def test_a_folder_of_masks_is_one_that_has_photos(tmp_path, write):
    for name in ("cat/1.jpg", "masks/cat/1.png", "hats/masks/9.png", "images/5.jpg"):
        write(tmp_path / name)
    root = str(tmp_path)
    assert is_mask_folder(root, b"masks")
    assert not is_mask_folder(root, b"hats/masks")
    assert not is_mask_folder(root, b"cat")
    assert not is_mask_folder(root, b"nowhere/masks")
