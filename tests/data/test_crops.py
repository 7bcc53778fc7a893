import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewsight.data.crops import CROP_DRAWS, TRIES, crop_and_resize, random_boxes
from fewsight.errors import InvalidInput


def _draws(count: int, seed: int = 0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).random((count, CROP_DRAWS))


def _plain_box(row, size, area, aspect):
    """torchvision's `get_params`, one photo, with given random numbers."""
    H, W = size
    for i in range(TRIES):
        target = H * W * (area[0] + row[i] * (area[1] - area[0]))
        low, high = numpy.log(aspect)
        ratio = numpy.exp(low + row[TRIES + i] * (high - low))
        w, h = round(float(numpy.sqrt(target * ratio))), round(float(numpy.sqrt(target / ratio)))
        if 0 < w <= W and 0 < h <= H:
            return [int(row[-2] * (H - h + 1)), int(row[-1] * (W - w + 1)), h, w]
    if aspect[0] > W / H:
        w, h = W, round(W / aspect[0])
    elif aspect[1] < W / H:
        w, h = round(H * aspect[1]), H
    else:
        w, h = W, H
    return [(H - h) // 2, (W - w) // 2, h, w]


@pytest.mark.parametrize("size", [(64, 64), (30, 90), (90, 20), (200, 3)])
@pytest.mark.parametrize("area", [(0.08, 1.0), (0.05, 0.14), (1.0, 1.0)])
def test_equals_the_plain_form(size, area):
    draws = _draws(200)
    boxes = random_boxes(draws, size, area)
    expected = [_plain_box(row, size, area, (3 / 4, 4 / 3)) for row in draws]
    assert boxes.tolist() == expected


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 1.0))
def test_boxes_lie_inside(height, width, low):
    boxes = random_boxes(_draws(20, height * 41 + width), (height, width), (low, 1.0))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, 0] + boxes[:, 2] <= height).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width).all()


def test_areas_are_uniform_over_the_range():
    boxes = random_boxes(_draws(20000), (400, 400), (0.2, 0.6))
    shares = boxes[:, 2] * boxes[:, 3] / 400**2
    # 20,000 draws: the mean of a uniform on [0.2, 0.6] has a standard error of 0.0008; rounding to pixels adds less
    assert abs(shares.mean() - 0.4) < 0.004
    assert abs(numpy.quantile(shares, 0.25) - 0.3) < 0.006


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizes_as_torchvision_does(interpolation):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2.functional import resized_crop

    pixels = torch.randint(
        0, 256, (6, 3, 50, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    boxes = random_boxes(_draws(6), (50, 70), (0.08, 1.0))
    ours = crop_and_resize(pixels, boxes, (32, 24), interpolation)
    mode = InterpolationMode(interpolation)
    for row, (top, left, height, width) in enumerate(boxes.tolist()):
        theirs = resized_crop(pixels[row], top, left, height, width, [32, 24], mode, antialias=True)
        assert (ours[row].int() - theirs.int()).abs().max() <= 1  # rounding of two uint8 kernels


def test_a_box_of_the_wanted_size_is_copied():
    pixels = torch.arange(3 * 8 * 8, dtype=torch.uint8).view(1, 3, 8, 8)
    assert torch.equal(crop_and_resize(pixels, numpy.array([[2, 3, 4, 4]]), (4, 4)), pixels[:, :, 2:6, 3:7])


def test_photos_of_several_sizes_are_taken_as_a_list():
    photos = [torch.full((3, 9, 5), 7, dtype=torch.uint8), torch.full((3, 4, 20), 9, dtype=torch.uint8)]
    out = crop_and_resize(photos, numpy.array([[0, 0, 9, 5], [0, 0, 4, 20]]), (6, 6))
    assert out[0].unique().tolist() == [7]
    assert out[1].unique().tolist() == [9]


@pytest.mark.parametrize("area", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5)])
def test_areas_out_of_range_are_refused(area):
    with pytest.raises(InvalidInput, match="area is"):
        random_boxes(_draws(1), (8, 8), area)


def test_an_empty_aspect_is_refused():
    with pytest.raises(InvalidInput, match="aspect is"):
        random_boxes(_draws(1), (8, 8), (0.5, 1.0), (2.0, 1.0))
