"""CPU time and peak memory of rival calls, taken in turn in one process.

CPU time of the process, not wall time: neighbours disturb it less. Peaks are resident memory above the state
before the call, after the allocator gave back what it kept.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

__all__ = ["Cost", "compare", "table"]


class Cost(NamedTuple):
    """Median CPU seconds and largest peak in MiB."""

    seconds: float
    mib: float


def compare(calls: Mapping[str, Callable[[], object]], repetitions: int = 7) -> dict[str, Cost]:
    """Cost of each call over interleaved repetitions, after one warm-up of each."""
    for call in calls.values():
        call()
    runs: dict[str, list[Cost]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            runs[name].append(_measured(call))
    return {
        name: Cost(median(run.seconds for run in each), max(run.mib for run in each))
        for name, each in runs.items()
    }


def table(
    costs: Mapping[str, Cost], peer: str, *, result_mib: float = 0.0, limit_ms: float | None = None
) -> str:
    """A Markdown table: milliseconds and MiB, and how many times the peer takes.

    Args:
        result_mib: size of what every call returns; memory is also given without it.
        limit_ms: what the machine could do at best.
    """

    def beyond(cost: Cost) -> float:
        return max(0.1, cost.mib - result_mib)

    theirs = costs[peer]
    lines = ["| | time | peak | faster | leaner | leaner beyond the result |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {name} | {1e3 * cost.seconds:.1f} ms | {cost.mib:.1f} MiB | {theirs.seconds / cost.seconds:.2f}x "
        f"| {theirs.mib / max(cost.mib, 0.1):.1f}x | {beyond(theirs) / beyond(cost):.1f}x |"
        for name, cost in costs.items()
    ]
    return "\n".join(lines + ([f"| limit of one core | {limit_ms:.0f} ms | | | | |"] if limit_ms else []))


def _measured(call: Callable[[], object]) -> Cost:
    # What the allocator keeps from other calls would hide what this one needs.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, start = _peak_mib(), time.process_time()
    call()
    return Cost(time.process_time() - start, _peak_mib() - before)


def _peak_mib() -> float:
    """Largest resident memory since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0
