"""Sums over features from which measures of geometry follow: added block by block, merged by addition.

`ClassSums` holds sums of rows for each class, O(K D); `Scatter` holds mean and centred scatter matrix, O(D^2). Neither
makes a centred or normalised copy of the features. Totals are float64; products of float32 features are taken in
float32, less the first row, so that a common offset (a narrow cone) does not cancel.

Letters: N rows, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["ClassSums", "Scatter", "check_features", "unit_blocks", "unit_rows"]

BLOCK_ROWS = 1024
# Width of the column blocks of the scatter matrix; only the lower triangle of blocks is computed.
BLOCK_COLUMNS = 128
# Blocks of rows whose products are added up in the features' own precision before they go into float64.
BLOCKS_KEPT = 8


def check_features(features: Tensor, labels: Tensor | None = None) -> tuple[int, int]:
    """N and D of `features` `[N, D]`; `labels`, where given, must be integers `[N]`.

    Raises:
        InvalidInput: a shape or dtype is wrong, or there is no row.
    """
    sizes = check_shapes(features=(features, "N D"))
    if not features.is_floating_point():
        raise InvalidInput(f"features have dtype {features.dtype}; expected floating-point numbers.")
    if not sizes["N"] or not sizes["D"]:
        raise InvalidInput(
            f"features have shape {list(features.shape)}; expected at least one row and column."
        )
    if labels is not None:
        check_shapes(features=(features, "N D"), labels=(labels, "N"))
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise InvalidInput(f"labels have dtype {labels.dtype}; expected integer class ids.")
    return sizes["N"], sizes["D"]


def unit_rows(rows: Tensor) -> Tensor:
    """Rows at unit length; zero rows stay zero.

    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    # Dividing by the largest entry first keeps the squares of very small or large rows in range.
    scaled = rows / rows.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled / torch.where(length > 0, length, 1)


def unit_blocks(features: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows at unit length in float64, with the rows they stand for."""
    for first in range(0, len(features), BLOCK_ROWS):
        rows = slice(first, first + BLOCK_ROWS)
        yield rows, unit_rows(features[rows].double())


class ClassSums(NamedTuple):
    """Sums of the rows of each class, or of all rows as one class.

    Attributes:
        classes: sorted class ids `[K]`.
        counts: rows of each class, float64 `[K]`.
        squares: sum of squared lengths of each class, float64 `[K]`.
        sums: sum of the rows of each class, float64 `[K, D]`.
    """

    classes: Tensor
    counts: Tensor
    squares: Tensor
    sums: Tensor

    @classmethod
    def of(cls, features: Tensor, labels: Tensor | None = None, *, unit: bool) -> ClassSums:
        """Sums of raw rows, or of rows at unit length."""
        ids = (
            torch.zeros(len(features), dtype=torch.long, device=features.device) if labels is None else labels
        )
        classes, columns = torch.unique(ids, return_inverse=True)
        counts = torch.bincount(columns, minlength=len(classes)).double()
        sums = torch.zeros(len(classes), features.shape[1], dtype=torch.float64, device=features.device)
        squares = torch.zeros_like(counts)
        for first in range(0, len(features), BLOCK_ROWS):
            rows = slice(first, first + BLOCK_ROWS)
            block = features[rows].double()
            block = unit_rows(block) if unit else block
            sums.index_add_(0, columns[rows], block)
            squares.index_add_(0, columns[rows], block.square().sum(1))
        return cls(classes, counts, squares, sums)

    def merged(self, other: ClassSums) -> ClassSums:
        """The sums over both sets of rows."""
        classes, columns = torch.unique(torch.cat([self.classes, other.classes]), return_inverse=True)
        parts = (torch.cat(pair) for pair in zip(self[1:], other[1:], strict=True))
        return ClassSums(
            classes,
            *(part.new_zeros(len(classes), *part.shape[1:]).index_add_(0, columns, part) for part in parts),
        )


class Scatter(NamedTuple):
    """Mean and centred scatter matrix: covariance times (N - 1), both float64.

    Attributes:
        num_rows: N.
        mean: `[D]`.
        matrix: sum of (x - mean)(x - mean)^T, `[D, D]`.
    """

    num_rows: int
    mean: Tensor
    matrix: Tensor

    @classmethod
    def of(cls, features: Tensor, *, product_dtype: torch.dtype | None = None) -> Scatter:
        """The scatter of all rows; products in `product_dtype` (None: that of the features, at least float32)."""
        N, D = features.shape
        low = product_dtype or torch.promote_types(features.dtype, torch.float32)
        wide = torch.promote_types(features.dtype, torch.promote_types(low, torch.float32))
        shift = features[0].to(wide)
        matrix = torch.zeros(D, D, dtype=torch.float64, device=features.device)
        partial = torch.zeros_like(matrix, dtype=wide)
        total = torch.zeros(D, dtype=torch.float64, device=features.device)
        buffer = torch.empty(min(N, BLOCK_ROWS), D, dtype=low, device=features.device)
        for first in range(0, N, BLOCK_ROWS):
            rows = features[first : first + BLOCK_ROWS]
            block = torch.sub(rows, shift, out=buffer[: len(rows)])
            total += block.sum(0, dtype=wide)
            _add_products(partial, block)
            if first // BLOCK_ROWS % BLOCKS_KEPT == BLOCKS_KEPT - 1 or first + BLOCK_ROWS >= N:
                matrix += partial
                partial.zero_()
        mean = total / N
        _mirror(matrix.addr_(mean, total, alpha=-1))
        return cls(N, mean + shift, matrix)

    def merged(self, other: Scatter) -> Scatter:
        """The scatter of both sets of rows (Chan, Golub and LeVeque 1979)."""
        count = self.num_rows + other.num_rows
        gap = other.mean - self.mean
        between = torch.outer(gap, gap) * (self.num_rows * other.num_rows / count)
        return Scatter(
            count, self.mean + gap * (other.num_rows / count), self.matrix + other.matrix + between
        )

    @property
    def constant(self) -> bool:
        """Whether the rows do not differ: total variance zero up to rounding, 1e-12 of the largest value."""
        spread = (self.matrix.diagonal().max().clamp(min=0) / self.num_rows).sqrt()
        return bool(spread <= 1e-12 * (self.mean.abs().max() + spread).clamp(min=1))

    def uncentred(self) -> Tensor:
        """X^T X, `[D, D]`."""
        return self.matrix.addr(self.mean, self.mean, alpha=self.num_rows)


def _add_products(total: Tensor, block: Tensor) -> None:
    """Add the lower triangle of blocks of `block^T block` to `total`; what stands above it is undefined."""
    if block.dtype != total.dtype:
        total += block.T @ block
        return
    for column in range(0, len(total), BLOCK_COLUMNS):
        columns = slice(column, column + BLOCK_COLUMNS)
        total[column:, columns].addmm_(block[:, column:].T, block[:, columns])


def _mirror(matrix: Tensor) -> None:
    """Copy the blocks below the diagonal to those above."""
    for column in range(0, len(matrix), BLOCK_COLUMNS):
        columns, below = slice(column, column + BLOCK_COLUMNS), slice(column + BLOCK_COLUMNS, None)
        block = matrix[columns, columns]
        block.copy_(block.tril() + block.tril(-1).T)
        matrix[columns, below] = matrix[below, columns].T
