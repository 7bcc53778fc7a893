"""Geometry of 50,000 features of width 768: time and peak memory beside the IsoScore package and singular values.

    python benchmarks/geometry.py [--rows 50000] [--width 768] [--repetitions 5] [--out FILE]

Needs the extra `bench` (IsoScore). Values are checked first: IsoScore to 1e-4, RankMe to 1e-3 of the peer's in float32.
The limit is half of the scatter matrix at 190 GFLOP/s.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from IsoScore.IsoScore import IsoScore
from torch import Tensor

from fewsight.evaluation.geometry import isoscore, rankme
from measure import compare, table


def rankme_by_singular_values(features: Tensor) -> Tensor:
    """RankMe as its definition reads."""
    sigma = torch.linalg.svdvals(features)
    shares = sigma / sigma.sum() + 1e-7
    return torch.special.entr(shares).sum().exp()


def main() -> None:
    """Compare and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    features = torch.randn(arguments.rows, arguments.width)
    features *= torch.logspace(0, -1.5, arguments.width)
    features += 0.3
    warnings.filterwarnings("ignore", message="To copy construct from a tensor")
    groups: dict[str, dict[str, Callable[[], Tensor]]] = {
        "IsoScore": {
            "IsoScore package": lambda: IsoScore(features),
            "fewsight isoscore": lambda: isoscore(features),
            "fewsight isoscore, bfloat16": lambda: isoscore(features, product_dtype=torch.bfloat16),
        },
        "RankMe": {
            "singular values": lambda: rankme_by_singular_values(features),
            "fewsight rankme": lambda: rankme(features),
        },
    }
    limit = arguments.rows * arguments.width**2 / 190e6
    text = ""
    for name, calls in groups.items():
        peer, *others = calls
        expected = float(calls[peer]())
        for other in others:
            error = abs(float(calls[other]()) / expected - 1)
            assert error < (1e-3 if name == "RankMe" or "bfloat16" in other else 1e-4), (other, error)
        text += f"## {name}\n{table(compare(calls, arguments.repetitions), peer, limit_ms=limit)}\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
