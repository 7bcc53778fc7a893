"""SimCLR's views: crops as TensorFlow draws and enlarges them, jitter against colorsys, every random part in place."""

from __future__ import annotations

import colorsys
import math

import pytest
import torch
from torch import Tensor

from fewsight.data.augment import photometric
from fewsight.data.simclr_views import (
    _between,
    _brighter,
    _contrasted,
    _saturated,
    _turned,
    colour_jitter,
    crop_boxes,
    resized_crops,
    simclr_views,
)
from fewsight.errors import InvalidInput

SEED = 5


def generator(seed: int = SEED) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 6, side: int = 12) -> Tensor:
    return torch.rand(count, 3, side, side, generator=generator(1), dtype=torch.float64)


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def enlarged(plane: Tensor, side: int) -> Tensor:
    """One plane `[h, w]` to `[side, side]`, pixel by pixel, as TensorFlow 1 does it."""
    height, width = plane.shape
    result = torch.zeros(side, side, dtype=plane.dtype)
    for i in range(side):
        for j in range(side):
            y, x = i * height / side, j * width / side
            for m in range(math.floor(y) - 1, math.floor(y) + 3):
                for n in range(math.floor(x) - 1, math.floor(x) + 3):
                    value = plane[min(max(m, 0), height - 1), min(max(n, 0), width - 1)]
                    result[i, j] += cubic(y - m) * cubic(x - n) * value
    return result


def test_crops_are_enlarged_as_by_the_formula() -> None:
    images = pictures(3)
    boxes = torch.tensor([[0, 0, 12, 12], [2, 3, 7, 5], [11, 0, 1, 12]])
    ours = resized_crops(images, boxes)
    torch.testing.assert_close(ours[0], images[0])
    for image, (top, left, height, width), found in zip(images, boxes.tolist(), ours, strict=True):
        crop = image[:, top : top + height, left : left + width]
        expected = torch.stack([enlarged(plane, 12) for plane in crop])
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(224, 224), (32, 32), (40, 80)])
def test_crops_keep_their_ranges(size: tuple[int, int]) -> None:
    height, width = size
    top, left, tall, wide = crop_boxes(4000, size, generator()).T
    share = tall * wide / (height * width)
    assert share.min() >= 0.1
    assert share.min() < 0.13
    assert 0.95 < share.max() <= 1
    assert (top + tall).max() <= height
    assert (left + wide).max() <= width
    assert top.min() == left.min() == 0
    aspect = wide / tall * height / width
    # one pixel of rounding at the smallest crops
    assert aspect.min() >= 0.75 - 1.5 / (0.25 * min(size))
    assert aspect.max() <= 4 / 3 + 1.5 / (0.25 * min(size))
    # heights are even between those of the smallest and the largest area: half of the crops hold under 0.42
    assert 0.36 < float(share.median()) < 0.46


@pytest.mark.parametrize("smallest", [0.25, 0.6, 1.0])
def test_the_smallest_crop_is_a_setting(smallest: float) -> None:
    tall, wide = crop_boxes(2000, (32, 32), generator(), smallest)[:, 2:].T
    share = tall * wide / 1024
    assert share.min() >= smallest
    assert share.min() < smallest + 0.05
    assert share.max() > 0.95
    whole = simclr_views(pictures().float(), generator(), strength=0.0, smallest=1.0)
    assert {tuple(box) for box in crop_boxes(9, (12, 12), generator(), 1.0).tolist()} == {(0, 0, 12, 12)}
    assert whole.shape == (6, 3, 12, 12)


def test_a_picture_too_thin_for_any_crop_stays_whole() -> None:
    assert crop_boxes(3, (1, 1), generator()).tolist() == [[0, 0, 1, 1]] * 3


def in_hsv(image: Tensor, change: str, factor: float) -> Tensor:
    result = image.clone()
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            h, s, v = colorsys.rgb_to_hsv(*image[:, y, x].tolist())
            if change == "hue":
                h = (h + factor) % 1
            else:
                s = min(max(s * factor, 0), 1)
            result[:, y, x] = torch.tensor(colorsys.hsv_to_rgb(h, s, v), dtype=image.dtype)
    return result


def test_jitter_operations() -> None:
    images = pictures(4, 5)
    images[0, :, 0, 0] = 0  # black
    images[1, :, 1, 1] = 0.4  # grey
    factors = torch.tensor([0.0, 0.3, 1.0, 1.8], dtype=torch.float64)
    column = factors[:, None, None, None]
    for image, factor, saturated, turned in zip(
        images, factors.tolist(), _saturated(images, column), _turned(images, column / 9), strict=True
    ):
        torch.testing.assert_close(saturated, in_hsv(image, "saturation", factor))
        torch.testing.assert_close(turned, in_hsv(image, "hue", factor / 9))
    torch.testing.assert_close(_brighter(images, column), images + column)
    mean = images.mean((2, 3), keepdim=True)
    torch.testing.assert_close(_contrasted(images, column), (images - mean) * column + mean)


def test_jitter_changes_four_of_five_in_any_order() -> None:
    images = torch.rand(400, 3, 4, 4, generator=generator(2))
    changed = (colour_jitter(images, generator()) != images).flatten(1).any(1)
    assert 0.74 < float(changed.float().mean()) < 0.86
    still = colour_jitter(images, generator(), 0.0)
    torch.testing.assert_close(still, images, atol=1e-5, rtol=0)  # factors 1 and turns 0, up to rounding


def test_view_is_the_chain_of_its_parts() -> None:
    """With the generator at the same place, the parts one after the other give the view."""
    images, chain = pictures().float(), generator()
    view = simclr_views(images, generator(), blur=1.0)
    expected = resized_crops(images, crop_boxes(6, (12, 12), chain))
    mirrored = torch.rand(6, generator=chain) < 0.5
    expected[mirrored] = expected[mirrored].flip(-1)
    expected = colour_jitter(expected, chain).clamp(0, 1)
    grey = torch.rand(6, generator=chain) < 0.2
    if grey.any():
        expected[grey] = photometric(expected[grey], "grayscale")
    torch.rand(6, generator=chain)
    sigma = _between(0.1, 2.0, 6, chain)
    expected = photometric(expected, "gaussian_blur", sigma=sigma, kernel_size=1, padding="zeros")
    torch.testing.assert_close(view, expected)
    assert 0 <= float(view.min()) <= float(view.max()) <= 1


def test_blur_darkens_borders_and_only_where_asked() -> None:
    white = torch.ones(64, 3, 40, 40)
    assert simclr_views(white, generator(), strength=0.0).min() > 1 - 1e-5
    blurred = simclr_views(white, generator(), strength=0.0, blur=1.0)
    dark = blurred[:, 0, 0, 20] < 1 - 1e-5
    assert float(dark.float().mean()) > 0.8  # all but those of the smallest sigma
    torch.testing.assert_close(blurred[:, :, 10:30, 10:30], torch.ones(64, 3, 20, 20))
    some = simclr_views(white, generator(), strength=0.0, blur=0.5)[:, 0, 0, 20] < 1 - 1e-5
    assert 0.25 < float(some.float().mean()) < 0.6


def test_same_generator_same_views_and_inputs_stay() -> None:
    images = pictures().float()
    before = images.clone()
    one, other = (simclr_views(images, generator(), blur=0.5) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(images, before)
    assert not torch.equal(one, simclr_views(images, generator(9), blur=0.5))
    assert simclr_views(images[:0], generator()).shape == (0, 3, 12, 12)


@pytest.mark.parametrize(
    ("images", "settings", "named"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), {}, "uint8"),
        (torch.zeros(2, 1, 4, 4), {}, "images"),
        (torch.zeros(2, 3, 4, 4), {"strength": 1.3}, "strength is 1.3"),
        (torch.zeros(2, 3, 4, 4), {"blur": 2}, "blur 2"),
        (torch.zeros(2, 3, 4, 4), {"smallest": 0}, "smallest is 0"),
    ],
)
def test_errors_name_the_argument(images: Tensor, settings: dict[str, float], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        simclr_views(images, generator(), **settings)
