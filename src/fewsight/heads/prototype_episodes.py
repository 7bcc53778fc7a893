"""Prototypes on many episodes at once: the answers of `heads.prototypes.Prototypes`, without a loop over episodes.

Supports are never gathered: their means come from the feature table by `embedding_bag`. Dividing a query's scores by
its own length does not change its best class, so the cosine needs no second pass over the queries. Episodes go through
in blocks whose queries fit into the processor's cache.

Letters: E episodes, K ways, S shots, Q queries a way, N rows of the table, D width.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    answers: list[Tensor] = []
    starts = torch.cat([starts, starts.new_tensor([len(support)])])
    held, asked = ways.tolist(), queries.tolist()
    classes, rows = (torch.cat([each.new_zeros(1), each.cumsum(0)]).tolist() for each in (ways, queries))
    buffer = torch.empty(0, table.shape[1], dtype=table.dtype)
    for first, last in _blocks(asked, block_of_episodes(1, table.shape[1], table.element_size())):
        bags = starts[classes[first] : classes[last] + 1]
        wanted = query[rows[first] : rows[last]]
        if len(buffer) < len(wanted):
            buffer = torch.empty(len(wanted), table.shape[1], dtype=table.dtype)
        gathered = torch.index_select(table, 0, wanted, out=buffer[: len(wanted)])
        means = embedding_bag(support[bags[0] : bags[-1]], table, bags[:-1] - bags[0], mode="mean")
        weights, shift = _ragged_weights(means, bags.diff(), ways[first:last], metric, centring)
        parts = zip(
            gathered.split(asked[first:last]),
            weights.split(held[first:last]),
            shift.split(held[first:last]),
            strict=True,
        )
        answers += [torch.addmm(base, those, each.T).argmax(1) for those, each, base in parts]
    return torch.cat(answers) if answers else query.new_zeros(0)


def _blocks(queries: list[int], most: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 of runs of episodes that have at most `most` queries, or one episode."""
    first, held = 0, 0
    for number, count in enumerate(queries):
        if held and held + count > most:
            yield first, number
            first, held = number, 0
        held += count
    if first < len(queries):
        yield first, len(queries)


def _ragged_weights(
    means: Tensor, shots: Tensor, ways: Tensor, metric: Metric, centring: float
) -> tuple[Tensor, Tensor]:
    """`[C, D]` and `[C]` of the classes of several episodes; the centre of each is the mean of all its supports."""
    if metric == "euclidean":
        return 2 * means, -means.square().sum(1)
    if not centring:
        return unit(means), means.new_zeros(len(means))
    episode = torch.arange(len(ways)).repeat_interleave(ways)
    totals = torch.zeros(len(ways), dtype=torch.long).index_add_(0, episode, shots)
    shares = centring * shots / totals[episode]
    centres = means.new_zeros(len(ways), means.shape[1])
    centres.index_add_(0, episode, means * shares[:, None].to(means.dtype))
    weights = unit(means - centres[episode])
    return weights, -(weights * centres[episode]).sum(1)


def _weights(means: Tensor, metric: Metric, centring: float) -> tuple[Tensor, Tensor]:
    """`[E, K, D]` and `[E, 1, K]` so that queries @ weights.T + shift has the best way of the head's scores."""
    if metric == "euclidean":
        return 2 * means, -means.square().sum(-1)[:, None]
    if not centring:
        weights = unit(means)
        return weights, weights.new_zeros(len(means), 1, means.shape[1])
    centre = centring * means.mean(1, keepdim=True)
    weights = unit(means - centre)
    return weights, -(weights * centre).sum(-1)[:, None]
