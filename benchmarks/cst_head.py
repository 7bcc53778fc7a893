"""Correlation and CST head for one query and one support image at ViT-S/8, 400 px: ours against the plain form.

The plain form follows the paper step by step: all correlation tokens as one tensor, keys, values and queries of
all of them, a mask of -1e9, pooling after projection. Both run in one process, alternating; times are CPU times
of the process, so that neighbours disturb less; peaks are resident memory above the state before the call.

    python benchmarks/cst_head.py [--rounds 5] [--seen 0.25] [--grid 50]

`ours_cached` is a second query on the same support; `five_shots` a 1-way 5-shot query on cached supports, averaged
and joint, without encoding.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.heads.correlation import CorrelationTransformer, support_directions
from fewsight.objectives.cst import cst_loss

BLOCKS, HEADS, WIDTH, GRID = 12, 6, 384, 12


def plain_tokens(query: Tensor, cls: Tensor, support: Tensor) -> Tensor:
    """Correlation tokens [B, C, P, 1 + S], everything at once."""
    B, L = cls.shape[:2]
    maps = F.interpolate(
        support.flatten(0, 1).permute(0, 3, 1, 2), size=(GRID, GRID), mode="bilinear", align_corners=True
    )
    support = torch.cat([cls[:, :, None], maps.flatten(2).transpose(1, 2).reshape(B, L, -1, WIDTH)], dim=2)

    def by_head(x: Tensor) -> Tensor:
        return F.normalize(x.reshape(*x.shape[:3], HEADS, -1), dim=-1, eps=1e-12)

    tokens = torch.einsum("blpnd,blsnd->bnlps", by_head(query.flatten(2, 3)), by_head(support))
    return tokens.reshape(B, HEADS * L, *tokens.shape[3:])


def plain_head(
    head: CorrelationTransformer, tokens: Tensor, mask: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """The head as the paper describes it, with the parameters of ours."""
    x = tokens
    for block in head.corrtransformer:
        x = plain_block(block, x, mask)
    for_class, for_mask = head.linear(x).unflatten(2, (side, side)).unbind(4)
    pooled = F.avg_pool2d(head.decoder1_cls(for_class), 3, stride=2, padding=1)
    enlarged = F.interpolate(
        head.decoder1_seg(for_mask), size=(2 * side, 2 * side), mode="bilinear", align_corners=True
    )
    return head.decoder2_cls(pooled).mean((2, 3)), head.decoder2_seg(enlarged)


def plain_block(block: torch.nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """One block, projecting before pooling and masking after the product."""
    attn, side = block.attn, int((x.shape[3] - 1) ** 0.5)
    heads = attn.heads

    def pooled(t: Tensor) -> Tensor:
        image = t[..., 1:].unflatten(3, (side, side)).flatten(1, 2)
        image = F.avg_pool2d(image, attn.pool).unflatten(1, t.shape[1:3]).flatten(3)
        return torch.cat([t[..., :1], image], dim=3)

    shortcut = attn.short_cut[3](attn.short_cut[2](pooled(attn.short_cut[0](x))))
    q, k, v = attn.qkv(x).chunk(3, dim=1)
    q, k, v = (t.unflatten(1, (heads, -1)) for t in (pooled(q), k, v))
    logits = torch.einsum("bhcpl,bhcpm->bhplm", q, k)
    resized = F.interpolate(mask[:, None].float(), size=(side, side), mode="bilinear", align_corners=True)
    hidden = F.pad(resized.flatten(1) == 0, (1, 0))
    logits = logits.masked_fill(hidden[:, None, None, None], -1e9)
    attended = torch.einsum("bhplm,bhcpm->bhcpl", logits.softmax(-1), v).flatten(1, 2)
    y = attn.out_norm(attn.agg(attended) + shortcut)
    return block.ff["out_norm"](block.ff["ff"](y) + y)


def peak_mib() -> float:
    """Largest resident memory since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def measured(call: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds and MiB above the state before one call."""
    # What the allocator keeps from other cases would hide what this one needs.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, start = peak_mib(), time.process_time()
    call()
    return time.process_time() - start, peak_mib() - before


def compare(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Median CPU seconds and largest MiB of each case, run in turn after one warm-up each."""
    for call in cases.values():
        call()
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, call in cases.items():
            runs[name].append(measured(call))
    return {
        name: {"seconds": median(r[0] for r in each), "mib": max(r[1] for r in each)}
        for name, each in runs.items()
    }


def main() -> None:
    """Run and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seen", type=float, default=0.25, help="share of the support image that is foreground"
    )
    parser.add_argument("--grid", type=int, default=50, help="patches along a side")
    parser.add_argument("--memory-mib", type=float, default=8.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side = options.grid
    head = CorrelationTransformer(BLOCKS * HEADS, memory_mib=options.memory_mib).eval()
    query, support = torch.randn(2, 1, BLOCKS, side, side, WIDTH).unbind(0)
    cls = torch.randn(1, BLOCKS, WIDTH)
    edge = round(8 * side * options.seen**0.5)
    mask = torch.zeros(1, 8 * side, 8 * side, dtype=torch.bool)
    mask[:, side : side + edge, side : side + edge] = True
    seen = head.reduce_mask(mask)
    directions = support_directions(cls, support, heads=HEADS, support_grid=(GRID, GRID))

    def plain() -> tuple[Tensor, Tensor]:
        return plain_head(head, plain_tokens(query, cls, support), mask, side)

    def ours() -> tuple[Tensor, Tensor]:
        fresh = support_directions(cls, support, heads=HEADS, support_grid=(GRID, GRID))
        return head.correlate(query, fresh, seen)

    def ours_cached() -> tuple[Tensor, Tensor]:
        return head.correlate(query, directions, seen)

    half_query, half_directions = query.half(), directions.half()

    def ours_half() -> tuple[Tensor, Tensor]:
        return head.correlate(half_query, half_directions, seen)

    def step(forward: Callable[[], tuple[Tensor, Tensor]]) -> None:
        class_logits, mask_logits = forward()
        target = torch.zeros(1, 8 * side, 8 * side)
        cst_loss(class_logits, mask_logits, torch.ones(1), target, size=(8 * side, 8 * side)).loss.backward()

    with torch.no_grad():
        difference = max(float((a - b).abs().max()) for a, b in zip(plain(), ours(), strict=True))
        inference = compare(
            {"plain": plain, "ours": ours, "ours_cached": ours_cached, "ours_half": ours_half}, options.rounds
        )
        five = directions.expand(5, -1, -1, -1).contiguous()
        five_seen = [level.expand(5, -1).contiguous() for level in seen]
        shots = compare(
            {
                "plain": lambda: [plain() for _ in range(5)],
                "average": lambda: [head.correlate(query, five[k : k + 1], seen) for k in range(5)],
                "joint": lambda: head.correlate_jointly(query, five, five_seen),
            },
            max(2, options.rounds // 2),
        )
    training = compare(
        {"plain": lambda: step(plain), "ours": lambda: step(ours)}, max(2, options.rounds // 2)
    )
    report = {
        "seen": [int(s.sum()) for s in seen],
        "largest_difference": difference,
        "inference": inference,
        "five_shots": shots,
        "training_step": training,
        "ratios": {
            "inference_time": inference["plain"]["seconds"] / inference["ours"]["seconds"],
            "inference_time_half": inference["plain"]["seconds"] / inference["ours_half"]["seconds"],
            "inference_memory": inference["ours"]["mib"] / inference["plain"]["mib"],
            "five_shots_time": shots["plain"]["seconds"] / shots["average"]["seconds"],
            "five_shots_joint_time": shots["plain"]["seconds"] / shots["joint"]["seconds"],
            "training_time": training["plain"]["seconds"] / training["ours"]["seconds"],
            "training_memory": training["ours"]["mib"] / training["plain"]["mib"],
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
