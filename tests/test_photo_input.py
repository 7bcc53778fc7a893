"""What counts as photos, what as features, and what photos are called."""

from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from fewsight.backbones.features import Features
from fewsight.data.collection import Collection
from fewsight.errors import InvalidInput
from fewsight.photo_input import PhotoEncoder, file_names, is_photos

PICTURE = numpy.zeros((4, 5, 3), dtype=numpy.uint8)


@pytest.mark.parametrize(
    "X",
    [
        ["a.jpg"],
        [Path("a.jpg")],
        (Path("a.jpg"),),
        numpy.array(["a.jpg", "b.jpg"]),
        numpy.array(["a.jpg", "b.jpg"], dtype=object),
        [Image.fromarray(PICTURE)],
        [PICTURE, PICTURE[:2]],
        PICTURE[None],
        torch.from_numpy(PICTURE[None]),
        Collection.from_paths(["a.jpg"]),
    ],
    ids=range(10),
)
def test_photos(X):
    assert is_photos(X)


@pytest.mark.parametrize(
    "X",
    [
        numpy.zeros((2, 3)),
        [[0.0, 1.0]],
        [],
        torch.zeros(2, 3),
        Features(cls=torch.zeros(2, 3)),
        numpy.zeros(3),
        numpy.zeros(()),
        numpy.array([["a", "b"]]),
        7,
    ],
    ids=range(9),
)
def test_no_photos(X):
    assert not is_photos(X)


@pytest.mark.parametrize(
    ("X", "said"),
    [
        ("a.jpg", "list of paths"),
        (Path("a.jpg"), "list of paths"),
        (numpy.zeros((2, 4, 4, 3)), "uint8"),
        (numpy.zeros((2, 3, 4, 4), dtype=numpy.uint8), "uint8"),
    ],
    ids=range(4),
)
def test_what_is_meant_as_photos_but_is_not(X, said):
    with pytest.raises(InvalidInput, match=said):
        is_photos(X)


def test_names():
    assert file_names(["a.jpg", Path("b/c.jpg")], None, 2) == ["a.jpg", "b/c.jpg"]
    assert file_names(numpy.array(["a.jpg"]), None, 1) == ["a.jpg"]
    assert file_names(PICTURE[None], None, 1, start=4) == ["photo 5"]
    assert file_names([b"caf\xe9.jpg".decode("utf-8", "surrogateescape")], None, 1) == ["caf\\xe9.jpg"]
    assert file_names(PICTURE[None], ["mine"], 1) == ["mine"]
    with pytest.raises(InvalidInput, match="files"):
        file_names(PICTURE[None], ["mine", "yours"], 1)


def test_an_unknown_backbone_is_told_when_it_is_needed():
    encoder = PhotoEncoder("no such backbone")
    with pytest.raises(InvalidInput, match="no such backbone"):
        _ = encoder.backbone
