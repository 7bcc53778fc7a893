"""The block of CST's correlation transformer, in a form whose memory does not grow with the query.

Source: Kang, Koniusz, Cho and Murray, "Distilling Self-Supervised Vision Transformers for Weakly-Supervised
Few-Shot Classification and Segmentation", CVPR 2023. Attention runs over the support tokens, separately for
each query token; only the group norms see all query tokens.

So everything before the first norm is done for some query tokens at a time (`CorrelationAttention.front`), and
only what the norms need is kept: the pooled shortcut and the attended values, 1 + S' columns in place of 1 + S.
Three facts make that front small, none changes a number beyond rounding:

- average pooling and a 1 x 1 projection commute (a bias passes through an average), so the shortcut and the
  queries are projected from pooled columns;
- the mean over support tokens of a correlation is the correlation with the mean of the unit vectors, so pooled
  columns need not come from the full ones;
- a masked support token gets weight exp(-1e9) = 0, so it may be left out before keys and values are made (the
  class column is never masked, hence a softmax is never empty).

Letters: R rows (pairs of query and support image), C channels, P query tokens, p some of them, M seen support
tokens, S' support tokens after pooling, n heads, c head width.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = [
    "Columns",
    "CorrelationAttention",
    "CorrelationBlock",
    "TokenColumns",
    "kept_columns",
    "pooling_matrix",
]

NOT_RECOMPUTED = (
    20  # times the bound: 160 MiB; a batch of the small recipe takes 155, one pair at 400 px 200 to 580
)


class Columns(Protocol):
    """Where a block's input comes from: columns of support tokens for a range of query tokens.

    Attributes:
        rows: R.
        tokens: P.
        numbers: how many numbers a slice holds in work for one query token of one row.
        seen: 1 + M.
        pooled: 1 + S'.
    """

    rows: int
    tokens: int
    numbers: int
    seen: int
    pooled: int

    def slice(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Seen columns [R, C, p, 1 + M] and pooled columns [R, C, p, 1 + S']."""


class TokenColumns:
    """Columns of tokens that are at hand as one tensor [R, C, P, 1 + S]."""

    def __init__(self, tokens: Tensor, kept: Tensor | None, pool: int) -> None:
        self.rows, channels, self.tokens, columns = tokens.shape
        self.seen = columns if kept is None else kept.shape[1]
        self.numbers = channels * self.seen
        self._tokens, self._kept = tokens, kept
        self._pool = pooling_matrix(columns, pool, tokens)
        self.pooled = self._pool.shape[1]

    def slice(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """See `Columns`."""
        x = self._tokens[:, :, start:stop]
        pooled = x @ self._pool
        if self._kept is not None:
            x = x.gather(3, self._kept[:, None, None].expand(*x.shape[:3], -1))
        return x, pooled


def pooling_matrix(columns: int, pool: int, like: Tensor) -> Tensor:
    """[1 + g², 1 + (g // k)²]: the class column stays as it is, image columns are averaged over k x k blocks.

    A remainder at the right and lower edge is dropped, as average pooling without padding does. A product with
    this matrix is several times faster than a mean over blocks of three or four neighbours.
    """
    grid = round((columns - 1) ** 0.5)
    reduced = grid // pool
    cell = torch.arange(grid) // pool
    inside = cell < reduced
    block = (cell[:, None] * reduced + cell)[inside[:, None] & inside]
    image = torch.arange(grid * grid).view(grid, grid)[inside[:, None] & inside]
    matrix = like.new_zeros(columns, 1 + reduced**2)
    matrix[0, 0] = 1
    matrix[1 + image, 1 + block] = 1 / pool**2
    return matrix


def kept_columns(seen: Tensor) -> tuple[Tensor, Tensor | None]:
    """Indices of the columns that attention reads, padded to the longest row, and what to add to the logits.

    Args:
        seen: bool, support tokens without the class column, [R, S].

    Returns:
        Indices [R, 1 + M] (class column first), and None where no row is padded, else [R, 1 + M] with -inf at
        padding.
    """
    counts = seen.sum(1)
    M = int(counts.max())
    # A stable sort puts the seen tokens first and keeps their order.
    order = (~seen).long().argsort(dim=1, stable=True)[:, :M] + 1
    kept = torch.cat([order.new_zeros(len(seen), 1), order], dim=1)
    if bool((counts == M).all()):
        return kept, None
    padding = torch.arange(M, device=seen.device) >= counts[:, None]
    bias = torch.zeros(padding.shape, device=seen.device).masked_fill_(padding, -torch.inf)
    return kept, F.pad(bias, (1, 0))


class CorrelationAttention(nn.Module):
    """Attention over support tokens and its shortcut.

    Differs from the authors' code: the shortcut is always projected; theirs takes the identity where widths are
    equal and then fails at the sum, as the token axis shrinks.
    """

    def __init__(self, in_width: int, out_width: int, pool: int, heads: int, groups: int) -> None:
        super().__init__()
        hidden = out_width // 2
        self.pool, self.heads, self.hidden, self.out_width = pool, heads, hidden, out_width
        self.short_cut = nn.Sequential(
            nn.Conv2d(in_width, out_width, 1, bias=False),
            nn.Identity(),
            nn.GroupNorm(groups, out_width),
            nn.ReLU(inplace=True),
        )
        self.qkv = nn.Conv2d(in_width, 3 * hidden, 1)
        self.agg = nn.Sequential(
            nn.GroupNorm(groups, hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out_width, 1, bias=False),
            nn.GroupNorm(groups, out_width),
            nn.ReLU(inplace=True),
        )
        self.out_norm = nn.GroupNorm(groups, out_width)

    def forward(self, columns: Columns, bias: Tensor | None, memory_mib: float) -> Tensor:
        """Columns -> [R, out, P, 1 + S'], with at most about `memory_mib` in work before the norms."""
        kept = self._kept(columns, bias, memory_mib)
        shortcut, attended = kept.split([self.out_width, self.hidden], dim=1)
        shortcut = self.short_cut[3](self.short_cut[2](shortcut))
        return self.out_norm(self.agg(attended) + shortcut)

    def front(self, seen: Tensor, pooled: Tensor, bias: Tensor | None) -> Tensor:
        """Everything before the first norm: [R, out + hidden, p, 1 + S'].

        `seen` [R, C, p, 1 + M] makes keys and values, `pooled` [R, C, p, 1 + S'] queries and shortcut; `bias`
        [R, 1 + M] is added to the logits. Logits are not scaled by the head width, as published.
        """
        R, C, p, columns = pooled.shape
        n, c = self.heads, self.hidden // self.heads
        weight, offset = self.qkv.weight.flatten(1), self.qkv.bias
        assert offset is not None
        # One product for the shortcut and the queries; the shortcut has no bias.
        project = self.short_cut.get_parameter("0.weight").flatten(1)
        both = torch.cat([project, weight[: self.hidden]])
        projected = (both @ pooled.reshape(R, C, -1)).view(R, -1, p, columns)
        shortcut, q = projected.split([self.out_width, self.hidden], dim=1)
        q = q + offset[: self.hidden, None, None]
        kv = weight[self.hidden :] @ seen.reshape(R, C, -1) + offset[self.hidden :, None]
        k, v = kv.view(R, 2, n, c, p, -1).unbind(1)  # [R, n, c, p, 1 + M]
        q = q.view(R, n, c, p, columns)
        logits = torch.einsum("rncpl,rncpm->rnplm", q, k)
        if bias is not None:
            logits = logits + bias.to(logits.dtype)[:, None, None, None]
        attended = torch.einsum("rnplm,rncpm->rncpl", logits.softmax(-1), v)
        return torch.cat([shortcut, attended.reshape(R, self.hidden, p, columns)], dim=1)

    def _kept(self, columns: Columns, bias: Tensor | None, memory_mib: float) -> Tensor:
        """`front` for all query tokens, in one preallocated tensor.

        With gradients it is recomputed in the backward pass, which costs a third of a step, unless all of it fits
        into `NOT_RECOMPUTED` times the bound.
        """

        def some(start: int, stop: int) -> Tensor:
            return self.front(*columns.slice(start, stop), bias)

        chunk = self._chunk(columns, memory_mib)
        ranges = [(at, min(at + chunk, columns.tokens)) for at in range(0, columns.tokens, chunk)]
        if torch.is_grad_enabled():
            if self._mib(columns, columns.tokens) <= NOT_RECOMPUTED * memory_mib:
                return torch.cat([some(*bounds) for bounds in ranges], dim=2)
            parts = [
                checkpoint(some, *bounds, use_reentrant=False, preserve_rng_state=False) for bounds in ranges
            ]
            return torch.cat(parts, dim=2)
        # Appending parts to a list would leave holes between them in the heap: 90 to 160 MiB at 400 px.
        first = some(*ranges[0])
        kept = first.new_empty(*first.shape[:2], columns.tokens, first.shape[3])
        kept[:, :, : ranges[0][1]] = first
        for start, stop in ranges[1:]:
            kept[:, :, start:stop] = some(start, stop)
        return kept

    def _chunk(self, columns: Columns, memory_mib: float) -> int:
        """Query tokens at a time whose slice, keys and values, logits and their softmax fit the bound."""
        return max(1, int(memory_mib / self._mib(columns, 1)))

    def _mib(self, columns: Columns, tokens: int) -> float:
        """MiB in work for so many query tokens."""
        pooled = columns.pooled
        numbers = columns.numbers + 4 * self.hidden * columns.seen + 2 * self.heads * columns.seen * pooled
        numbers += (2 * self.out_width + 4 * self.hidden) * pooled
        return float(self.qkv.weight.element_size() * columns.rows * numbers * tokens / 2**20)


class CorrelationBlock(nn.Module):
    """Attention and feed-forward part: columns [R, C, P, 1 + S] -> [R, out, P, 1 + S']."""

    def __init__(self, in_width: int, out_width: int, pool: int, heads: int, groups: int) -> None:
        super().__init__()
        self.attn = CorrelationAttention(in_width, out_width, pool, heads, groups)
        self.ff = nn.ModuleDict(
            {
                "ff": nn.Sequential(
                    nn.Conv2d(out_width, out_width // 2, 1, bias=False),
                    nn.GroupNorm(groups, out_width // 2),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(out_width // 2, out_width, 1, bias=False),
                ),
                "out_norm": nn.GroupNorm(groups, out_width),
            }
        )

    def forward(self, columns: Columns, bias: Tensor | None, memory_mib: float) -> Tensor:
        """See the class and `CorrelationAttention.forward`."""
        x = self.attn(columns, bias, memory_mib)
        return self.ff["out_norm"](self.ff["ff"](x) + x)
