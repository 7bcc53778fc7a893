"""Operations in place, against the same formulas pixel by pixel."""

import colorsys

import pytest
import torch

from fewsight.data import float_operations
from fewsight.data.augment import photometric, photometric_
from fewsight.errors import InvalidInput


def _pictures(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Random colours, and every corner and edge of the cube: equal channels, black, white, pure colours."""
    steps = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=dtype)
    cube = torch.cartesian_prod(steps, steps, steps).T  # [3, 64]
    random = torch.rand(3, 64, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return torch.stack([cube, random]).view(2, 3, 8, 8)


@pytest.mark.parametrize("turn", [-0.5, -0.21, -1e-3, 0.0, 0.1, 1 / 3, 0.5])
def test_hue_turns_on_the_circle_of_the_standard_library(turn):
    images = _pictures()
    turned = images.clone()
    float_operations.hue(turned, turn)
    for before, after in zip(
        images.permute(0, 2, 3, 1).reshape(-1, 3), turned.permute(0, 2, 3, 1).reshape(-1, 3), strict=True
    ):
        h, s, v = colorsys.rgb_to_hsv(*before.tolist())
        expected = torch.tensor(colorsys.hsv_to_rgb((h + turn) % 1.0, s, v), dtype=torch.float64)
        torch.testing.assert_close(after, expected, rtol=0, atol=1e-12)


def test_each_picture_has_its_own_factor():
    images = _pictures(torch.float32)
    factors = torch.tensor([0.6, 1.3]).view(2, 1, 1, 1)
    for operation in (
        float_operations.brighten,
        float_operations.contrast,
        float_operations.saturate,
        float_operations.solarize,
    ):
        together = images.clone()
        operation(together, factors)
        for row in range(2):
            alone = images[row : row + 1].clone()
            operation(alone, float(factors[row]))
            torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-6)


def test_contrast_and_saturation_are_mixtures_with_grey():
    images = _pictures()
    grey = float_operations.grey(images)
    for operation, other in (
        (float_operations.contrast, grey.mean(dim=(2, 3), keepdim=True)),
        (float_operations.saturate, grey),
    ):
        mixed = images.clone()
        operation(mixed, 1.4)
        expected = (1.4 * images - 0.4 * other).clamp(0, 1)
        torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-12)


def test_solarising_inverts_from_the_threshold_on():
    values = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64).view(1, 3, 1, 1)
    float_operations.solarize(values, 0.5)
    assert values.flatten().tolist() == [0.2, 0.5, pytest.approx(0.2)]


def test_in_place_is_what_is_given_back():
    for operation, factors in (("hue", {"factor": 0.2}), ("hflip", {}), ("gaussian_blur", {"sigma": 1.0})):
        images = _pictures(torch.float32)
        expected = photometric(images, operation, **factors)
        photometric_(images, operation, **factors)
        assert torch.equal(images, expected)
    with pytest.raises(InvalidInput, match="hue was given"):
        photometric_(images, "hue")
