"""Position tables: the rules apart, what stays, types, gradients, errors."""

from __future__ import annotations

import math

import pytest
import torch

from fewsight.backbones.positions import interpolate_position_embedding, sincos_position_embedding
from fewsight.errors import InvalidInput


def table(n: int, dim: int = 5, prefix: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, prefix + n * n, dim, generator=generator, dtype=torch.float64)


def test_sincos_equals_the_plain_loop():
    h, w, dim = 3, 4, 12
    embedding = sincos_position_embedding(dim, (h, w))
    for y in range(h):
        for x in range(w):
            angles = [10000 ** (-i / (dim / 4)) for i in range(dim // 4)]
            row = [f(p * a) for p in (x, y) for f in (math.sin, math.cos) for a in angles]
            torch.testing.assert_close(embedding[y * w + x], torch.tensor(row))
    with_class = sincos_position_embedding(dim, (h, w), cls_token=True)
    assert with_class.dtype == torch.float32
    assert with_class[0].equal(torch.zeros(dim))
    assert with_class[1:].equal(embedding)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_prefix_rows_stay(prefix):
    embedding = table(4, prefix=prefix)
    result = interpolate_position_embedding(embedding, (6, 3), num_prefix=prefix)
    assert result.shape == (1, prefix + 18, 5)
    assert result[:, :prefix].equal(embedding[:, :prefix])


def test_own_grid_is_returned_as_it_is_but_not_another_shape_of_it():
    embedding = table(4)
    for offset in (0.0, 0.1, "msn"):
        assert interpolate_position_embedding(embedding, (4, 4), offset=offset) is embedding
    assert not interpolate_position_embedding(embedding, (8, 2)).equal(embedding)


def test_the_offset_and_the_antialias_are_visible():
    embedding = table(7)
    with_offset = interpolate_position_embedding(embedding, (4, 4))
    by_size = interpolate_position_embedding(embedding, (4, 4), offset=0.0)
    smooth = interpolate_position_embedding(embedding, (4, 4), offset=0.0, antialias=True)
    assert (with_offset - by_size).abs().max() > 1e-3
    assert (smooth - by_size).abs().max() > 1e-3
    torch.testing.assert_close(interpolate_position_embedding(embedding, (4, 4), offset="msn"), by_size)


@pytest.mark.parametrize("sides", [(14, 61), (14, 60), (16, 25), (37, 16), (28, 50), (6, 49)])
def test_no_row_is_lost_by_rounding(sides):
    n, side = sides
    result = interpolate_position_embedding(table(n, dim=1), (side, side + 1))
    assert result.shape[1] == 1 + side * (side + 1)


def test_constant_tables_stay_constant():
    embedding = torch.full((1, 26, 3), 2.0)
    for grid in ((3, 9), (12, 4)):
        result = interpolate_position_embedding(embedding, grid)
        torch.testing.assert_close(result, torch.full_like(result, 2.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_types_are_kept(dtype):
    embedding = table(4).to(dtype)
    result = interpolate_position_embedding(embedding, (5, 5))
    assert result.dtype == dtype
    wanted = interpolate_position_embedding(embedding.double(), (5, 5))
    torch.testing.assert_close(result.double(), wanted, rtol=1e-2, atol=2e-2)


def test_is_differentiable():
    embedding = table(3, dim=2).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: interpolate_position_embedding(x, (4, 2)), (embedding,))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"pos_embed": torch.zeros(1, 8, 4)}, "pos_embed"),
        ({"pos_embed": torch.zeros(2, 10, 4)}, "pos_embed"),
        ({"pos_embed": torch.zeros(1, 10, 4), "num_prefix": 2}, "pos_embed"),
        ({"grid": (0, 4)}, "grid"),
        ({"grid": (4, 4, 4)}, "grid"),
        ({"grid": (2, 8), "offset": "msn"}, "grid"),
        ({"offset": -0.1}, "offset"),
        ({"offset": "dino"}, "offset"),
    ],
)
def test_refuses(arguments, name):
    with pytest.raises(InvalidInput, match=name):
        interpolate_position_embedding(**({"pos_embed": torch.zeros(1, 10, 4), "grid": (4, 4)} | arguments))


def test_sincos_refuses():
    with pytest.raises(InvalidInput, match="dim"):
        sincos_position_embedding(6, (2, 2))
    with pytest.raises(InvalidInput, match="grid"):
        sincos_position_embedding(8, (0, 2))
