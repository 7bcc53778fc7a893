"""The blur by small matrices equals the whole matrix, written plainly."""

import math

import pytest
import torch

from fewsight.data.blur import gaussian_blur


def _whole(side: int, sigma: float, kernel_size: int | None, padding: str) -> torch.Tensor:
    """The matrix that blurs a row of `side` pixels, row by row in float64."""
    if padding == "pil":
        variance = sigma**2 / 3
        whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
        part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
        weights = {d: 1.0 if abs(d) <= whole else part for d in range(-whole - 1, whole + 2)}
    else:
        radius = kernel_size // 2
        weights = {d: math.exp(-0.5 * (d / sigma) ** 2) for d in range(-radius, radius + 1)}
    total = sum(weights.values())
    matrix = torch.zeros(side, side, dtype=torch.float64)
    for row in range(side):
        for step, weight in weights.items():
            source = row + step
            if padding == "pil":
                source = min(max(source, 0), side - 1)
            elif padding == "reflect":
                source = side - 1 - abs(side - 1 - abs(source))
            if 0 <= source < side:
                matrix[row, source] += weight / total
    return matrix @ matrix @ matrix if padding == "pil" else matrix


@pytest.mark.parametrize("sides", [(9, 9), (40, 33), (64, 96), (100, 31), (131, 70), (224, 224)])
@pytest.mark.parametrize("padding", ["reflect", "zeros", "pil"])
def test_equals_the_whole_matrix_at_every_border(sides, padding):
    H, W = sides
    kernel_size = None if padding == "pil" else min(23, 2 * min(sides) - 1)
    sigmas = [0.1, 0.7, 2.0]
    images = torch.rand(3, 3, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    blurred = gaussian_blur(images, torch.tensor(sigmas, dtype=torch.float64), kernel_size, padding)
    for row, sigma in enumerate(sigmas):
        down, across = (_whole(side, sigma, kernel_size, padding) for side in sides)
        expected = down @ images[row] @ across.T
        torch.testing.assert_close(blurred[row], expected, rtol=0, atol=1e-12)


def test_autocast_does_not_take_it_down_to_16_bits():
    images = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    plain = gaussian_blur(images, torch.tensor([1.5]), None, "pil")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gaussian_blur(images, torch.tensor([1.5]), None, "pil"), plain)
