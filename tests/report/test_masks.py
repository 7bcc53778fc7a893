"""Mask layers: size, colours, thin things, empty masks."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from fewsight.errors import InvalidInput
from fewsight.report.masks import FILL, OUTLINE, mask_layer, shrink_labels
from fewsight.report.thumbnails import Thumbnail

PICTURE = Thumbnail("q0", "", 60, 40)


def pixels(layer: Thumbnail | None) -> np.ndarray:
    assert layer is not None
    data = base64.b64decode(layer.uri.split(",", 1)[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(int)


def test_layer_has_the_size_of_the_photo_and_the_colours_of_the_classes() -> None:
    labels = np.zeros((400, 600), dtype=np.uint8)
    labels[100:300, 100:300] = 1
    labels[:, 500:] = 3
    layer = pixels(mask_layer(labels, {1: "#ff0000", 3: "hsl(240, 100%, 50%)"}, PICTURE, key="m0"))
    assert layer.shape == (40, 60, 4)
    assert layer[0, 0, 3] == 0
    # the palette of 64 colours may move a colour by a little
    assert np.abs(layer[20, 20] - (255, 0, 0, FILL)).max() <= 4
    assert np.abs(layer[20, 58] - (0, 0, 255, FILL)).max() <= 4
    assert layer[20, 10, 3] == pytest.approx(OUTLINE, abs=4)
    assert layer[0, 58, 3] == pytest.approx(FILL, abs=4)  # the photo's border is no outline


def test_same_size_keeps_every_label() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (30, 20))
    given = labels.copy()
    assert np.array_equal(shrink_labels(labels, (30, 20)), labels)
    assert np.array_equal(labels, given)


def test_thin_things_stay_and_the_larger_share_wins() -> None:
    labels = np.zeros((100, 100), dtype=np.int32)
    labels[:, 50:54] = 1  # 4 of the 10 columns of a small pixel
    assert (shrink_labels(labels, (10, 10))[:, 5] == 1).all()
    labels[:, 50:60] = 2
    labels[:, 50:54] = 1
    assert (shrink_labels(labels, (10, 10))[:, 5] == 2).all()


def test_empty_mask_has_no_layer() -> None:
    assert mask_layer(np.zeros((5, 5), dtype=int), {}, PICTURE, key="m") is None


def test_a_label_without_colour_is_drawn() -> None:
    assert pixels(mask_layer(np.full((4, 6), 9), {}, PICTURE, key="m"))[20, 20, 3] > 0


@pytest.mark.parametrize("labels", [np.zeros((2, 2)), np.zeros(4, dtype=int), np.zeros((2, 2, 2), dtype=int)])
def test_wrong_masks_are_named(labels: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="labels"):
        shrink_labels(labels, (2, 2))
