"""Photometric operations: Pillow itself, torchvision's formulas, one factor per picture, errors."""

from __future__ import annotations

import math
import warnings

import numpy
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from fewsight.data.augment import OPERATIONS, photometric
from fewsight.errors import InvalidInput


def pictures(B: int = 3, H: int = 33, W: int = 27, seed: int = 0) -> torch.Tensor:
    """Noise, a gradient, and near-grey colours in one batch."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (B, 3, H, W), generator=generator, dtype=torch.uint8)
    images[1] = torch.linspace(0, 255, H * W).view(H, W).to(torch.uint8)
    images[2] = images[2] // 16 + 100
    return images


def pillow(images: torch.Tensor, function) -> torch.Tensor:
    results = [numpy.asarray(function(Image.fromarray(image.permute(1, 2, 0).numpy()))) for image in images]
    return torch.from_numpy(numpy.stack(results)).permute(0, 3, 1, 2)


def pillow_hue(image: Image.Image, factor: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = (numpy.array(hue).astype(int) + int(factor * 255)) % 256
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        turned_hue = Image.fromarray(turned.astype(numpy.uint8))
    return Image.merge("HSV", (turned_hue, saturation, value)).convert("RGB")


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize(
    ("operation", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_enhancements_equal_pillow(operation, enhance, factor):
    images = pictures()
    expected = pillow(images, lambda image: enhance(image).enhance(factor))
    # float32 holds the blend to less than one grey level; a product that is exactly whole may fall on either side.
    difference = (photometric(images, operation, factor=factor).int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


def test_solarize_and_grey_equal_pillow():
    images = pictures()
    for threshold in (0, 100, 128, 256):
        expected = pillow(images, lambda image, limit=threshold: ImageOps.solarize(image, limit))
        assert photometric(images, "solarize", threshold=threshold).equal(expected)
    grey = pillow(images, lambda image: image.convert("L").convert("RGB"))
    assert photometric(images, "grayscale").equal(grey)
    assert photometric(images, "hflip").equal(pillow(images, ImageOps.mirror))


@pytest.mark.parametrize("factor", [-0.5, -0.1, 0.0, 0.03, 0.25])
def test_hue_equals_pillow(factor):
    images = pictures(H=96, W=96)
    expected = pillow(images, lambda image: pillow_hue(image, factor))
    difference = (photometric(images, "hue", factor=factor).int() - expected.int()).abs()
    # Halves are rounded from float32 here and from double there.
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.7, 2.0, 5.0])
def test_pil_blur_equals_pillow_but_for_rounding(sigma):
    images = pictures()
    expected = pillow(images, lambda image: image.filter(ImageFilter.GaussianBlur(sigma)))
    difference = (photometric(images, "gaussian_blur", sigma=sigma).int() - expected.int()).abs()
    # Pillow rounds after each of six passes.
    assert difference.max() <= 3
    assert difference.float().mean() < 1


@pytest.mark.parametrize(("padding", "mode"), [("reflect", "reflect"), ("zeros", "constant")])
@pytest.mark.parametrize("kernel_size", [1, 3, 9])
def test_kernel_blur_equals_the_sum_over_taps(padding, mode, kernel_size):
    images = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    radius, sigma = kernel_size // 2, 1.3
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    padded = torch.nn.functional.pad(images, [radius] * 4, mode=mode)
    expected = torch.nn.functional.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)
    result = photometric(images, "gaussian_blur", sigma=sigma, kernel_size=kernel_size, padding=padding)
    # Weights are made in float32 factors: sigma is a Python number.
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-7)


def test_blur_keeps_constant_pictures_where_edges_are_repeated():
    images = torch.full((1, 3, 20, 20), 0.7)
    torch.testing.assert_close(photometric(images, "gaussian_blur", sigma=2.0), images)
    dark = photometric(images, "gaussian_blur", sigma=2.0, kernel_size=9, padding="zeros")
    assert dark[0, 0, 0, 0] < 0.3


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    ("operation", "name", "values", "rest"),
    [
        ("solarize", "threshold", [0.0, 128.0, 256.0], {}),
        ("brightness", "factor", [0.5, 1.0, 1.5], {}),
        ("contrast", "factor", [0.5, 1.0, 1.5], {}),
        ("saturation", "factor", [0.0, 1.0, 1.5], {}),
        ("hue", "factor", [-0.2, 0.0, 0.4], {}),
        ("gaussian_blur", "sigma", [0.1, 1.0, 2.0], {}),
        ("gaussian_blur", "sigma", [0.1, 1.0, 2.0], {"kernel_size": 9, "padding": "reflect"}),
    ],
)
def test_each_picture_has_its_own_factor(dtype, operation, name, values, rest):
    images = pictures() if dtype == torch.uint8 else pictures() / 255
    batched = photometric(images, operation, **{name: torch.tensor(values)}, **rest)
    for position, value in enumerate(values):
        alone = photometric(images[position : position + 1], operation, **{name: value}, **rest)
        torch.testing.assert_close(batched[position : position + 1], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "operation", ["brightness", "contrast", "saturation", "hue", "solarize", "grayscale"]
)
def test_floats_follow_bytes(operation):
    images = pictures()
    factors = {"solarize": {"threshold": 128}, "grayscale": {}, "hue": {"factor": 0.1}}
    factors = factors.get(operation, {"factor": 1.4})
    bytes_ = photometric(images, operation, **factors).float()
    floats = photometric(images / 255, operation, **factors)
    assert floats.min() >= 0
    assert floats.max() <= 1
    # Bytes are cut to whole levels once or twice; hue counts 256 steps, several levels wide.
    assert (floats * 255 - bytes_).abs().max() <= (13 if operation == "hue" else 1.6)


def test_neutral_factors_change_nothing():
    images = pictures()
    for operation in ("brightness", "contrast", "saturation"):
        assert photometric(images, operation, factor=1.0).equal(images)
    floats = images / 255
    torch.testing.assert_close(photometric(floats, "hue", factor=0.0), floats)
    # A whole turn is no turn.
    half = photometric(photometric(floats, "hue", factor=0.5), "hue", factor=0.5)
    torch.testing.assert_close(half, floats, rtol=1e-5, atol=1e-5)


def test_grey_pictures_have_no_hue():
    grey = photometric(pictures(), "grayscale")
    assert photometric(grey, "hue", factor=0.3).equal(grey)
    assert photometric(grey, "saturation", factor=0.2).equal(grey)


def test_inputs_stay_and_half_precision_is_kept():
    images = (pictures() / 255).half()
    before = images.clone()
    for operation, (_, wanted, _) in OPERATIONS.items():
        factors = {"threshold": 128.0, "factor": 0.4, "sigma": 1.0}
        result = photometric(images, operation, **{name: factors[name] for name in wanted})
        assert result.dtype == torch.float16
        assert result.shape == images.shape
        assert images.equal(before)


@pytest.mark.parametrize(
    ("operation", "factors", "name"),
    [
        ("sharpen", {}, "operation"),
        ("brightness", {}, "brightness"),
        ("brightness", {"factor": 1.0, "sigma": 1.0}, "brightness"),
        ("brightness", {"factor": -0.1}, "factor"),
        ("brightness", {"factor": math.inf}, "factor"),
        ("contrast", {"factor": math.nan}, "factor"),
        ("contrast", {"factor": torch.ones(2)}, "factor"),
        ("saturation", {"factor": None}, "factor"),
        ("hue", {"factor": 0.6}, "factor"),
        ("solarize", {"threshold": 300}, "threshold"),
        ("gaussian_blur", {"sigma": 0.0}, "sigma"),
        ("gaussian_blur", {"sigma": 1.0, "kernel_size": 9}, "kernel_size"),
        ("gaussian_blur", {"sigma": 1.0, "padding": "reflect"}, "kernel_size"),
        ("gaussian_blur", {"sigma": 1.0, "kernel_size": 4, "padding": "zeros"}, "kernel_size"),
        ("gaussian_blur", {"sigma": 1.0, "kernel_size": 99, "padding": "reflect"}, "kernel_size"),
        ("gaussian_blur", {"sigma": 1.0, "kernel_size": 3, "padding": "mirror"}, "padding"),
    ],
)
def test_refuses_factors(operation, factors, name):
    with pytest.raises(InvalidInput, match=name):
        photometric(pictures(), operation, **factors)


def test_refuses_pictures():
    with pytest.raises(InvalidInput, match="images"):
        photometric(torch.zeros(1, 1, 4, 4), "hflip")
    with pytest.raises(InvalidInput, match="images"):
        photometric(torch.zeros(1, 3, 4, 4, dtype=torch.int64), "hflip")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_memory_layout_does_not_matter(operation):
    factors = {"threshold": 128.0, "factor": 0.4, "sigma": 1.0}
    factors = {name: factors[name] for name in OPERATIONS[operation][1]}
    for images in (pictures(), pictures() / 255):
        expected = photometric(images, operation, **factors)
        last = images.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(photometric(last, operation, **factors), expected)
        repeated = photometric(images[:1].expand(4, -1, -1, -1), operation, **factors)
        torch.testing.assert_close(repeated[3], expected[0])
