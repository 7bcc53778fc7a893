"""CrossTransformer head, forward and backward: time and peak memory beside a naive einsum and lucidrains' module.

    python benchmarks/crosstransformer.py [head module large ragged] [--repetitions 7] [--out FILE]

head     5-way 5-shot, 50 queries, 14 x 14 positions, 128 wide: ours against the whole score matrix
module   the same with 10 queries and maps of 384 channels: ours against cross-transformers-pytorch, which takes the
         supports anew for every query (its own package if it is installed, else its form written here)
large    20-way 5-shot, 200 queries: memory of ours; the naive form would take about 14 GiB
ragged   20 classes of 1 to 42 images, 10 queries: all at once against the sum over classes taken alone

Every row is checked for equal values and gradients first. Gradients themselves are part of all peaks. The limit counts
seven products of the attention (flash counting) at 190 GFLOP/s, what one core of the machine reaches.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.heads.aligned_attention import aligned_logits, class_order
from fewsight.heads.crosstransformer import crosstransformer_logits
from measure import compare, table

P, WIDTH, CHANNELS = 196, 128, 384
Calls = dict[str, Callable[[], tuple[Tensor, ...]]]


def episode(queries: int, counts: list[int]) -> tuple[list[Tensor], Tensor]:
    """Query keys and values, support keys and values; labels."""
    supports = sum(counts)
    shapes = (queries, P, WIDTH), (queries, P, WIDTH), (supports, P, WIDTH), (supports, P, WIDTH)
    leaves = [torch.randn(*shape).requires_grad_() for shape in shapes]
    return leaves, torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def naive(q: Tensor, w: Tensor, k: Tensor, v: Tensor, way: int) -> Tensor:
    """The formula with the whole score matrix; equal shots only."""
    k, v = (x.unflatten(0, (way, -1)).flatten(1, 2) for x in (k, v))  # [K, n P, D]
    attention = torch.softmax(torch.einsum("qpd,kmd->qkpm", q, k) * WIDTH**-0.5, 3)
    t = torch.einsum("qkpm,kmd->qkpd", attention, v)
    return -(t - w[:, None]).square().sum(3).mean(2)


def trained(logits: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """Logits and the gradients of a cross-entropy."""

    def call() -> tuple[Tensor, ...]:
        value = logits()
        loss = F.cross_entropy(value.float() / WIDTH, torch.arange(len(value)) % value.shape[1])
        return (value.detach(), *torch.autograd.grad(loss, leaves))

    return call


def under_autocast(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """`call` with products in bfloat16."""

    def low() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return call()

    return low


def head_calls() -> tuple[Calls, float]:
    leaves, labels = episode(50, [5] * 5)
    order = class_order(labels)
    ours = lambda: aligned_logits(*leaves, order)  # noqa: E731
    lean = lambda: aligned_logits(*leaves, order, memory_mib=16)  # noqa: E731
    products = 7 * 2 * 50 * P * 25 * P * WIDTH
    return {
        "naive einsum": trained(lambda: naive(*leaves, way=5), leaves),
        "fewsight": trained(ours, leaves),
        "fewsight, 16 MiB": trained(lean, leaves),
        "fewsight, bfloat16": trained(under_autocast(ours), leaves),
    }, products / 190e6


def supports_for_every_query(queries: Tensor, supports: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The published PyTorch module's form: [Q, C, H, W] and [Q, K, n, C, H, W], all scores in one tensor."""
    project = lambda maps, weight: F.conv2d(maps, weight[:, :, None, None]).flatten(2)  # noqa: E731
    q, w = project(queries, key), project(queries, value)  # [Q, D, P]
    flat = supports.flatten(0, 2)
    k, v = (project(flat, x).unflatten(0, supports.shape[:3]) for x in (key, value))  # [Q, K, n, D, P]
    scores = torch.einsum("bdp,bkndm->bkpnm", q, k) * WIDTH**-0.5
    attention = scores.flatten(3).softmax(3).view_as(scores)
    t = torch.einsum("bkpnm,bkndm->bkdp", attention, v)
    return -(t - w[:, None]).square().sum(2).mean(2)


def module_calls() -> tuple[Calls, float]:
    queries, supports = torch.randn(10, CHANNELS, 14, 14), torch.randn(5, 5, CHANNELS, 14, 14)
    key, value = ((torch.randn(WIDTH, CHANNELS) * CHANNELS**-0.5).requires_grad_() for _ in range(2))
    leaves = [queries.requires_grad_(), supports.requires_grad_(), key, value]
    repeated = lambda: supports[None].expand(10, -1, -1, -1, -1, -1)  # noqa: E731
    try:
        from cross_transformers_pytorch import CrossTransformer

        module = CrossTransformer(dim=CHANNELS, dim_key=WIDTH, dim_value=WIDTH)
        del module.to_qk.weight, module.to_v.weight

        def peer() -> Tensor:
            module.to_qk.weight, module.to_v.weight = key[:, :, None, None], value[:, :, None, None]
            return module(lambda maps: maps, queries, repeated())

        name = "cross-transformers-pytorch"
    except ImportError:
        peer, name = (
            lambda: supports_for_every_query(queries, repeated(), key, value),
            "supports for every query",
        )
    labels = torch.arange(5).repeat_interleave(5)
    ours = lambda: crosstransformer_logits(queries, supports.flatten(0, 1), labels, key, value)  # noqa: E731
    return {
        name: trained(peer, leaves),
        "fewsight": trained(ours, leaves),
        "fewsight, bfloat16": trained(under_autocast(ours), leaves),
    }, (7 * 2 * 10 * P * 25 * P * WIDTH + 3 * 2 * 35 * P * CHANNELS * 2 * WIDTH) / 190e6


def large_calls() -> tuple[Calls, float]:
    leaves, labels = episode(200, [5] * 20)
    order = class_order(labels)
    ours = lambda: aligned_logits(*leaves, order)  # noqa: E731
    return {
        "fewsight": trained(ours, leaves),
        "fewsight, bfloat16": trained(under_autocast(ours), leaves),
    }, 7 * 2 * 200 * P * 100 * P * WIDTH / 190e6


def ragged_calls() -> tuple[Calls, float]:
    counts = [1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 36, 42]
    leaves, labels = episode(10, counts)
    order = class_order(labels)

    def class_by_class() -> Tensor:
        q, w, k, v = leaves
        columns = []
        for label in range(len(counts)):
            rows = labels == label
            columns.append(aligned_logits(q, w, k[rows], v[rows], class_order(labels[rows])))
        return torch.cat(columns, 1)

    return {
        "classes alone, summed": trained(class_by_class, leaves),
        "fewsight, all at once": trained(lambda: aligned_logits(*leaves, order), leaves),
    }, 7 * 2 * 10 * P * sum(counts) * P * WIDTH / 190e6


CASES = {"head": head_calls, "module": module_calls, "large": large_calls, "ragged": ragged_calls}


def checked(calls: Calls, low: float = 0.02) -> None:
    """All calls give the first one's values and gradients: 1e-4 in float32, `low` of the norm in bfloat16."""
    first, *others = calls
    expected = calls[first]()
    for name in others:
        for one, other in zip(expected, calls[name](), strict=True):
            error = float((one - other).norm() / one.norm())
            assert error < (low if "bfloat16" in name else 1e-4), (name, error)


def main() -> None:
    """Run the cases and print a table each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    text = ""
    for name in arguments.cases:
        calls, limit = CASES[name]()
        if name != "large":  # a float32 call there takes ten seconds; the others have shown that values agree
            checked(calls)
        costs = compare(calls, arguments.repetitions)
        text += f"## {name}\n{table(costs, next(iter(calls)), limit_ms=limit)}\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
