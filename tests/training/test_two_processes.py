"""The loop on two gloo processes gives the loss and the weights of one process that sees both shares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from fewsight.objectives.objective import Batch
from fewsight.training.checkpoints import latest_checkpoint, read_checkpoint
from fewsight.training.loop import train
from fewsight.training.settings import TrainingSettings
from training.test_loop import Calm, batches, weights

SETTINGS = TrainingSettings(steps=12, learning_rate=0.01, checkpoint_every=6, clip=1.0, log_every=1, ema=0.5)


def share(number: int, rank: int) -> Batch:
    images = batches(number).images[0]
    return Batch(images=(images[rank::2],), step=number)


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    objective = Calm()
    result = train(objective, lambda number: share(number, rank), SETTINGS, Path(folder) / "pair")
    torch.save({"weights": weights(objective), "finished": result.finished}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    whole = Calm()
    train(whole, batches, SETTINGS, tmp_path / "whole")
    for rank in range(2):
        held = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert held["finished"]
        # two halves are averaged in another order than eight rows; 12 steps of AdamW
        torch.testing.assert_close(held["weights"], weights(whole), rtol=1e-5, atol=1e-6)
    newest = latest_checkpoint(tmp_path / "pair" / "checkpoints")
    assert newest is not None, "rank 0 writes the checkpoints"
    assert read_checkpoint(newest)["step"] == 12
