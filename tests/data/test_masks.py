"""Masks: checked against their photos, mapped to classes, refused with what was seen."""

from __future__ import annotations

import numpy
import pytest
from PIL import Image

from fewsight.data.collection import Photo
from fewsight.data.masks import label_map, mask_values, read_mask_colours, read_mask_names
from fewsight.errors import InvalidInput


@pytest.fixture
def photo(tmp_path):
    """`photo(values, labels)`: a photo whose mask holds these values."""

    def make(values, labels=("cat",), mode=None) -> Photo:
        path = tmp_path / "mask.png"
        image = Image.fromarray(numpy.asarray(values))
        if mode == "P":
            image = image.convert("P")
            image.putpalette([9] * 768)
        image.save(path)
        return Photo(tmp_path / "1.jpg", labels, path, file="1.jpg")

    return make


BINARY = numpy.array([[0, 1, 1], [0, 0, 1]], dtype=numpy.uint8)


@pytest.mark.parametrize("foreground", [1, 255, 38])
@pytest.mark.parametrize("mode", [None, "P"])
def test_binary_masks_of_any_code(photo, foreground, mode):
    found = label_map(photo(BINARY * foreground, mode=mode), (2, 3), ["dog", "cat"])
    assert found.tolist() == (BINARY * 2).tolist()
    assert found.dtype == numpy.int16


def test_an_empty_mask_and_a_class_that_is_not_asked_for(photo):
    assert not label_map(photo(BINARY * 0), (2, 3), ["cat"]).any()
    assert not label_map(photo(BINARY), (2, 3), ["dog"]).any()


def test_grey_edges_are_cut_at_the_middle(photo):
    values = numpy.zeros((10, 10), dtype=numpy.uint8)
    values[3:, :] = 255
    values[2, :5] = [10, 100, 127, 128, 200]
    found = label_map(photo(values), (10, 10), ["cat"])
    assert found[2, :5].tolist() == [0, 0, 0, 1, 1]


def test_many_values_without_names_are_refused_with_what_was_seen(photo):
    with pytest.raises(InvalidInput, match=r"0, 1, 2, 17.*classes\.csv"):
        label_map(photo(numpy.array([[0, 1], [2, 17]], dtype=numpy.uint8)), (2, 2), ["cat"])
    with pytest.raises(InvalidInput, match="2 labels"):
        label_map(photo(BINARY, ("cat", "dog")), (2, 3), ["cat", "dog"])


def test_ids_with_gaps_are_mapped_and_the_border_is_left_out(photo):
    names = {0: "background", 5: "dog", 12: "cat", 20: "sofa"}
    values = numpy.array([[0, 5, 12], [20, 255, 0]], dtype=numpy.uint8)
    found = label_map(photo(values, ("dog", "cat"), mode="P"), (2, 3), ["cat", "dog"], names)
    assert found.tolist() == [[0, 2, 1], [0, -1, 0]]
    with pytest.raises(InvalidInput, match="7"):
        label_map(photo(values * 0 + 7), (2, 3), ["cat"], names)


def test_ids_above_255(photo):
    values = numpy.array([[0, 300]], dtype=numpy.uint16)
    assert label_map(photo(values), (1, 2), ["cat"], {300: "cat"}).tolist() == [[0, 1]]


def test_another_size_is_an_error_with_both(photo):
    with pytest.raises(InvalidInput, match=r"3 x 2.*4 x 2.*upright"):
        label_map(photo(BINARY), (2, 4), ["cat"])


def test_colours_and_damage_are_errors(photo, tmp_path):
    with pytest.raises(InvalidInput, match="colours"):
        label_map(
            photo(numpy.random.default_rng(0).integers(0, 9, (4, 4, 3), dtype=numpy.uint8)), (4, 4), ["cat"]
        )
    grey = photo(numpy.repeat(BINARY[:, :, None], 3, axis=2))
    assert mask_values(grey.mask).tolist() == BINARY.tolist()
    (tmp_path / "mask.png").write_bytes(b"x")
    with pytest.raises(InvalidInput, match="not an image"):
        label_map(grey, (2, 3), ["cat"])
    with pytest.raises(InvalidInput, match="no mask"):
        label_map(Photo(tmp_path, file="1.jpg"), (2, 3), ["cat"])


def test_names_of_ids(tmp_path):
    assert read_mask_names(tmp_path) == {}
    (tmp_path / "classes.csv").write_bytes(b"\xef\xbb\xbfID,name,more\r\n0,background,\r\n3,cat,x\r\n")
    assert read_mask_names(tmp_path) == {0: "background", 3: "cat"}
    (tmp_path / "classes.csv").write_text("id,name\n1,cat\nx,dog\n")
    with pytest.raises(InvalidInput, match="line 3"):
        read_mask_names(tmp_path)


def test_the_masks_of_a_shared_set(data_set):
    from fewsight.data.layouts import read_layout

    root = data_set("camvid")
    collection = read_layout(root).collection
    names = read_mask_names(root)
    for n in range(0, len(collection), 100):
        photo = collection[n]
        with Image.open(photo.source) as image:
            size = image.size[::-1]
        found = label_map(photo, size, collection.classes, names)
        seen = {collection.classes[k - 1] for k in numpy.unique(found) if k > 0}
        assert seen == set(photo.labels)


RED, BLUE = (192, 0, 0), (0, 0, 128)


def coloured(edge: tuple[int, int, int] | None = None) -> numpy.ndarray:
    pixels = numpy.zeros((5, 6, 3), dtype=numpy.uint8)
    pixels[1:3, :4] = RED
    pixels[3:, 2:] = BLUE
    if edge is not None:
        pixels[1, 4] = edge  # as a drawing program leaves between red and black
    return pixels


def test_coloured_masks_with_a_table(photo, tmp_path):
    (tmp_path / "classes.csv").write_text("id,name,Colour\n3,cat,#c00000\n9,dog,0 0 128\n")
    names, colours = read_mask_names(tmp_path), read_mask_colours(tmp_path)
    assert colours == {3: RED, 9: BLUE}
    for edge, value in ((None, 0), ((100, 0, 0), 2), ((60, 0, 0), 0)):
        found = label_map(photo(coloured(edge)), (5, 6), ["dog", "cat"], names, colours)
        assert found[1].tolist() == [2, 2, 2, 2, value, 0]
        assert found[4].tolist() == [0, 0, 1, 1, 1, 1]


def test_colours_that_no_table_names_are_told(photo, tmp_path):
    with pytest.raises(InvalidInput, match=r"in colours \(#000000, #000080, #c00000\)"):
        label_map(photo(coloured()), (5, 6), ["cat"], {3: "cat"})
    with pytest.raises(InvalidInput, match=r"does not name: #000080 \(in 27 % of the pixels\)"):
        label_map(photo(coloured()), (5, 6), ["cat"], {3: "cat"}, {3: RED})
    for text in ("red", "#12", "1 2 300"):
        (tmp_path / "classes.csv").write_text(f"id,name,colour\n1,cat,{text}\n")
        with pytest.raises(InvalidInput, match="line 2: colour is"):
            read_mask_colours(tmp_path)
