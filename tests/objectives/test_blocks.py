"""Row blocks and checks of settings."""

from __future__ import annotations

import math

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.objectives import blocks
from fewsight.objectives.ranges import check_choice, check_positive, check_within, whole, whole_pair


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (1, 1), (7, 1 << 17), (1000, 4096), (3, 1 << 22)])
@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_blocks_cover_rows_once_in_order(rows, columns, scale):
    slices = list(blocks.row_blocks(rows, columns, torch.device("cpu"), scale=scale))
    assert [row for part in slices for row in range(rows)[part]] == list(range(rows))
    # A block is bounded, but one row is always a block.
    assert all((part.stop - part.start - 1) * columns <= scale * blocks.CPU_ELEMENTS for part in slices)


def test_accelerators_get_larger_blocks():
    assert len(list(blocks.row_blocks(4096, 4096, torch.device("cuda")))) == 1


def test_at_least_float32():
    for dtype in (torch.float16, torch.bfloat16, torch.int64, torch.float32):
        assert blocks.at_least_float32(torch.ones(1, dtype=dtype)).dtype == torch.float32
    double = torch.ones(1, dtype=torch.float64)
    assert blocks.at_least_float32(double) is double


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_positive(value):
    with pytest.raises(InvalidInput, match="temperature"):
        check_positive(temperature=value)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_within(value):
    check_within(0, 1, momentum=0.5)
    with pytest.raises(InvalidInput, match="momentum"):
        check_within(0, 1, momentum=value)


def test_choice_and_whole_numbers():
    check_choice(("a", "b"), kind="a")
    with pytest.raises(InvalidInput, match="kind is 'c'"):
        check_choice(("a", "b"), kind="c")
    assert whole_pair(torch.tensor([3, 4]), "grid") == (3, 4)
    for value in (0, 1.5, math.nan, math.inf):
        with pytest.raises(InvalidInput, match="patch_size"):
            whole(value, "patch_size")
    with pytest.raises(InvalidInput, match="grid"):
        whole_pair((1, 2, 3), "grid")
