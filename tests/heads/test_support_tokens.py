"""Which support tokens CST reads, against the authors' interpolation and against loops over pixels."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fewsight.errors import InvalidInput
from fewsight.heads.support_tokens import covered_tokens, seen_tokens, support_directions

sizes = st.integers(1, 23)
cells = st.integers(1, 7)


def random_mask(height: int, width: int, seed: int) -> torch.Tensor:
    return torch.rand(2, height, width, generator=torch.Generator().manual_seed(seed)) < 0.1


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, cells, cells, st.integers(0, 10**6))
def test_points_read_exactly_the_pixels_of_positive_weight(
    height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    mask = random_mask(height, width, seed)
    found = seen_tokens(mask, grid=(rows, columns)).view(2, rows, columns)
    for i in range(rows):
        for j in range(columns):
            read = [pixels(i, rows, height), pixels(j, columns, width)]
            expected = [any(bool(m[y, x]) for y in read[0] for x in read[1]) for m in mask]
            assert found[:, i, j].tolist() == expected


def pixels(i: int, count: int, size: int) -> set[int]:
    """Pixels with a positive weight of point i of `count`, in exact arithmetic."""
    at = Fraction(i * (size - 1), count - 1) if count > 1 else Fraction(0)
    return {at.numerator // at.denominator, -(-at.numerator // at.denominator)}


@pytest.mark.parametrize(("size", "grid"), [(400, 12), (400, 3), (224, 12), (97, 6)])
def test_points_equal_bilinear_interpolation(size: int, grid: int) -> None:
    mask = F.interpolate(random_mask(25, 25, 0)[:, None].double(), size=(size, size))[:, 0]
    # In float64 a weight that should be zero comes out below 1e-12; float32 would tip the last point.
    resized = F.interpolate(mask[:, None], size=(grid, grid), mode="bilinear", align_corners=True)
    assert torch.equal(seen_tokens(mask, grid=(grid, grid)), resized.flatten(1) > 1e-9)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, cells, cells, st.integers(0, 10**6))
def test_area_keeps_cells_with_any_pixel(height: int, width: int, rows: int, columns: int, seed: int) -> None:
    mask = random_mask(height, width, seed)
    found = covered_tokens(mask, grid=(rows, columns)).view(2, rows, columns)
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * height // rows, -(-(i + 1) * height // rows)
            left, right = j * width // columns, -(-(j + 1) * width // columns)
            assert torch.equal(found[:, i, j], mask[:, top:bottom, left:right].flatten(1).any(1))


def test_a_small_object_between_points_vanishes_only_from_points() -> None:
    mask = torch.zeros(1, 400, 400)
    mask[0, 5:30, 5:30] = 1
    assert not seen_tokens(mask, grid=(12, 12)).any()
    assert covered_tokens(mask, grid=(12, 12)).sum() == 1


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64])
def test_any_dtype_and_any_value(dtype: torch.dtype) -> None:
    mask = random_mask(20, 30, 1)
    assert torch.equal(seen_tokens(mask.to(dtype) * 2, grid=(4, 5)), seen_tokens(mask, grid=(4, 5)))


def test_support_directions_do_not_depend_on_length() -> None:
    generator = torch.Generator().manual_seed(0)
    cls = torch.randn(2, 3, 8, generator=generator, dtype=torch.float64)
    patches = torch.randn(2, 3, 6, 6, 8, generator=generator, dtype=torch.float64)
    plain = support_directions(cls, patches, heads=2, support_grid=(6, 6))
    scaled = support_directions(cls * 1e-3, patches * 7, heads=2, support_grid=(6, 6))
    torch.testing.assert_close(plain, scaled, rtol=0, atol=1e-14)  # rounding of one division
    assert plain.shape == (2, 6, 37, 4)
    torch.testing.assert_close(plain.norm(dim=-1), torch.ones(2, 6, 37, dtype=torch.float64))


def test_errors_name_the_argument() -> None:
    with pytest.raises(InvalidInput, match="support_mask"):
        seen_tokens(torch.ones(4, 4), grid=(2, 2))
    with pytest.raises(InvalidInput, match="grid"):
        seen_tokens(torch.ones(1, 4, 4), grid=(0, 2))
    with pytest.raises(InvalidInput, match="heads"):
        support_directions(torch.ones(1, 1, 6), torch.ones(1, 1, 2, 2, 6), heads=4, support_grid=(2, 2))
