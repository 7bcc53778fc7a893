"""Prototypes on many episodes at once: the answers of `heads.prototypes.Prototypes`, without a loop over episodes.

Supports are never gathered: their means come from the feature table by `embedding_bag`. Dividing a query's scores by
its own length does not change its best class, so the cosine needs no second pass over the queries. Episodes go through
in blocks whose queries fit into the processor's cache.

Letters: E episodes, K ways, S shots, Q queries a way, N rows of the table, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from fewsight.heads.prototypes import Metric
from fewsight.heads.vectors import unit
from fewsight.shapes import check_shapes

__all__ = ["block_of_episodes", "fixed_answers", "ragged_answers"]

CACHE_BYTES = 2**21  # queries of a block: the second-level cache of one core


def block_of_episodes(queries: int, width: int, itemsize: int = 4) -> int:
    """How many episodes of `queries` queries go through together."""
    return max(1, CACHE_BYTES // max(1, queries * width * itemsize))


def fixed_answers(
    table: Tensor, support: Tensor, query: Tensor, *, metric: Metric = "cosine", centring: float = 0.0
) -> Tensor:
    """The best way of each query, `[E, K, Q]`.

    Args:
        table: features `[N, D]`, at unit length if the head brings them to it.
        support: rows, long `[E, K, S]`.
        query: rows, long `[E, K, Q]`; -1 gives the answer of row 0, to be ignored.
        metric, centring: as in `Prototypes`.
    """
    sizes = check_shapes(table=(table, "N D"), support=(support, "E K S"), query=(query, "E K Q"))
    E, K, Q, D = (sizes[letter] for letter in "EKQD")
    answers = torch.empty(E, K * Q, dtype=torch.long)
    query = query.reshape(E, K * Q).clamp_min(0)
    step = block_of_episodes(K * Q, D, table.element_size())
    buffer = torch.empty(min(step, E) * K * Q, D, dtype=table.dtype)
    for first in range(0, E, step):
        rows = query[first : first + step]
        means = embedding_bag(support[first : first + step].reshape(-1, sizes["S"]), table, mode="mean")
        gathered = buffer[: rows.numel()]
        torch.index_select(table, 0, rows.reshape(-1), out=gathered)
        weights, shift = _weights(means.view(len(rows), K, D), metric, centring)
        scores = torch.baddbmm(shift, gathered.view(len(rows), K * Q, D), weights.transpose(1, 2))
        answers[first : first + step] = scores.argmax(2)
    return answers.view(E, K, Q)


def ragged_answers(
    table: Tensor,
    support: Tensor,
    starts: Tensor,
    ways: Tensor,
    query: Tensor,
    queries: Tensor,
    *,
    metric: Metric = "cosine",
    centring: float = 0.0,
) -> Tensor:
    """The best way of each query for episodes of unequal ways, shots and queries, `[sum of queries]`.

    Args:
        table: features `[N, D]`.
        support: rows of all supports, class after class, episode after episode, long `[S]`.
        starts: where each class begins in `support`, long `[C]`, C classes over all episodes.
        ways: classes of each episode, long `[E]`, adding up to C.
        query: rows of all queries, episode after episode, long `[Q]`.
        queries: queries of each episode, long `[E]`.
        metric, centring: as in `Prototypes`; the centre is the mean of all supports of an episode.
    """
    check_shapes(
        table=(table, "N D"),
        support=(support, "S"),
        starts=(starts, "C"),
        ways=(ways, "E"),
        queries=(queries, "E"),
    )
    means = embedding_bag(support, table, starts, mode="mean")  # [C, D]
    shots = torch.diff(starts, append=starts.new_tensor([len(support)]))
    answers = []
    parts = zip(
        means.split(ways.tolist()), shots.split(ways.tolist()), query.split(queries.tolist()), strict=True
    )
    for part, counts, rows in parts:
        centre = None
        if metric == "cosine" and centring:
            centre = centring * (part * (counts / counts.sum())[:, None]).sum(0, keepdim=True)
        weights, shift = _weights(part[None], metric, centring, centre)
        answers.append(torch.addmm(shift[0], table[rows], weights[0].T).argmax(1))
    return torch.cat(answers) if answers else query.new_zeros(0)


def _weights(
    means: Tensor, metric: Metric, centring: float, centre: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`[E, K, D]` and `[E, 1, K]` so that queries @ weights.T + shift has the best way of the head's scores."""
    if metric == "euclidean":
        return 2 * means, -means.square().sum(-1)[:, None]
    if not centring:
        weights = unit(means)
        return weights, weights.new_zeros(len(means), 1, means.shape[1])
    centre = centring * means.mean(1, keepdim=True) if centre is None else centre
    weights = unit(means - centre)
    return weights, -(weights * centre).sum(-1)[:, None]
