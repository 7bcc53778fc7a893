"""An episode split over two processes: loss, accuracy, gradients and running moments of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from fewsight import distributed
from fewsight.objectives.episodic import EpisodeMemory, Episodic
from objectives.test_episode_memory import episode, head, network

MEMORIES = {
    "whole graph": ("group norm", EpisodeMemory()),
    "chunks": ("group norm", EpisodeMemory(2)),
    "lite": ("group norm", EpisodeMemory(2, lite=4)),
    "moments handed on": ("support moments", EpisodeMemory(2)),
}


def outcome(case: str, way: int = 3) -> dict[str, Any]:
    kind, memory = MEMORIES[case]
    encoder = network(kind).double().train()
    compared = head("ctx", encoder.dim).double()
    objective = Episodic(encoder, compared, memory=memory, penalty=1e-3).train()
    batch = episode(way=way, shot=3, query=1, side=16)
    terms = objective.backward(batch)
    parameters = list(objective.parameters())
    distributed.average_gradients(parameters)
    loss = distributed.all_reduce_sum(terms.total) / distributed.world_size()
    return {
        "loss": loss,
        "accuracy": objective.watched()["accuracy"],
        "gradients": [parameter.grad for parameter in parameters],
        "moments": [buffer.clone() for buffer in encoder.buffers()],
    }


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    held = {case: outcome(case) for case in MEMORIES}
    held["too few queries to split"] = outcome("chunks", way=1)
    torch.save(held, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    expected = {case: outcome(case) for case in MEMORIES}
    expected["too few queries to split"] = outcome("chunks", way=1)
    for rank in range(2):
        held = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for case, found in held.items():
            # sums over images in another order, in float64
            torch.testing.assert_close(
                found, expected[case], rtol=1e-9, atol=1e-9, msg=lambda m, c=case: f"{c}: {m}"
            )
