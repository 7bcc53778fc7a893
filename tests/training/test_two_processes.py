"""The loop on two gloo processes gives the loss and the weights of one process that sees both shares.

One pair of processes runs all cases: gradients averaged, the backbone sharded by FSDP2, a signal to one of them, a loss
that is not finite on one of them.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn

from fewsight.backbones.architectures import untrained_backbone
from fewsight.errors import FewsightError, InvalidInput
from fewsight.objectives.objective import Batch, Objective, Terms
from fewsight.training.checkpoints import latest_checkpoint, read_checkpoint
from fewsight.training.loop import train
from fewsight.training.settings import TrainingSettings
from fewsight.training.sharding import full_state
from training.test_loop import Calm, Taught, batches, weights

SETTINGS = TrainingSettings(steps=12, learning_rate=0.01, checkpoint_every=6, clip=1.0, log_every=1, ema=0.5)
SHARDED = replace(SETTINGS, steps=4, checkpoint_every=2, sharding="fsdp", weight_decay=0.1)


class Pictures(Objective):
    """A small vision transformer, whose class token a head reads."""

    def __init__(self) -> None:
        super().__init__()
        size = {"depth": 2, "embed_dim": 24, "num_heads": 2}
        self.encoder = untrained_backbone("vit_tiny_patch16_224", image_size=32, seed=0, **size)
        torch.manual_seed(0)
        self.head = nn.Linear(24, 3)

    def backbone(self) -> nn.Module:
        return self.encoder

    def forward(self, batch: Batch) -> Terms:
        features = self.encoder.features(batch.images[0])
        return Terms({"square": (self.head(features.cls) - 1).square().mean()})


def pictures(number: int) -> Batch:
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(number))
    return Batch(images=(images,), step=number)


def share(batch: Batch, rank: int) -> Batch:
    return replace(batch, images=(batch.images[0][rank::2],))


def plain(rank: int, folder: Path) -> dict[str, Any]:
    objective = Calm()
    result = train(objective, lambda number: share(batches(number), rank), SETTINGS, folder)
    return {"weights": weights(objective), "finished": result.finished, "loss": result.losses["loss"]}


def sharded(rank: int, folder: Path) -> dict[str, Any]:
    objective = Pictures()
    result = train(objective, lambda number: share(pictures(number), rank), SHARDED, folder)
    parts = sum(parameter.to_local().numel() for parameter in objective.encoder.parameters())  # type: ignore[attr-defined]
    again = Pictures()  # goes on from the last checkpoint, which holds whole tensors
    train(again, pictures, SHARDED, folder)
    return {
        "weights": full_state(dict(objective.state_dict())),
        "again": full_state(dict(again.state_dict())),
        "loss": result.losses["loss"],
        "parts": parts,
    }


def signalled(rank: int, folder: Path) -> dict[str, Any]:
    def send(objective: Objective, step: int) -> None:
        if rank == 1 and step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    result = train(Calm(), batches, SETTINGS, folder, on_step=send)
    return {"steps": result.steps, "finished": result.finished}


def not_finite(rank: int, folder: Path) -> dict[str, Any]:
    def poisoned(number: int) -> Batch:
        return Batch(images=(batches(number).images[0] / (0.0 if rank == 1 and number == 2 else 1.0),))

    try:
        train(Calm(), poisoned, SETTINGS, folder)
    except FewsightError as error:
        return {"said": str(error)}
    return {"said": ""}


CASES = {"plain": plain, "sharded": sharded, "signalled": signalled, "not_finite": not_finite}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    held = {name: case(rank, Path(folder) / name) for name, case in CASES.items()}
    torch.save(held, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, dict[str, Any]]]]:
    folder = tmp_path_factory.mktemp("pair")
    multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return folder, [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


Pair = tuple[Path, list[dict[str, dict[str, Any]]]]


@pytest.mark.slow
def test_two_processes_equal_one(pair: Pair, tmp_path: Path) -> None:
    folder, ranks = pair
    whole = Calm()
    result = train(whole, batches, SETTINGS, tmp_path)
    for held in ranks:
        assert held["plain"]["finished"]
        # two halves are averaged in another order than eight rows; 12 steps of AdamW
        torch.testing.assert_close(held["plain"]["weights"], weights(whole), rtol=1e-5, atol=1e-6)
    losses = [held["plain"]["loss"] for held in ranks]
    assert sum(losses) / 2 == pytest.approx(result.losses["loss"], rel=1e-5)
    newest = latest_checkpoint(folder / "plain" / "checkpoints")
    assert newest is not None, "rank 0 writes the checkpoints"
    assert read_checkpoint(newest)["step"] == 12


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        # 4 steps of AdamW on float32 gradients that were added up in another order
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.slow
def test_a_backbone_in_parts_equals_a_whole_one(pair: Pair, tmp_path: Path) -> None:
    folder, ranks = pair
    whole = Pictures()
    result = train(whole, pictures, replace(SHARDED, sharding="none"), tmp_path)
    expected = dict(whole.state_dict())
    count = sum(parameter.numel() for parameter in whole.encoder.parameters())
    for held in ranks:
        assert_same(held["sharded"]["weights"], expected)
        assert all(
            torch.equal(held["sharded"]["again"][name], value)
            for name, value in held["sharded"]["weights"].items()
        )
        assert held["sharded"]["parts"] < 0.6 * count
    assert sum(held["sharded"]["loss"] for held in ranks) / 2 == pytest.approx(
        result.losses["loss"], rel=1e-4
    )
    newest = latest_checkpoint(folder / "sharded" / "checkpoints")
    assert newest is not None
    held = read_checkpoint(newest)
    assert all(type(value) is Tensor for value in held["objective"].values())
    unsharded = Pictures()  # a run may go on without sharding
    train(unsharded, pictures, replace(SHARDED, sharding="none"), folder / "sharded")
    assert_same(dict(unsharded.state_dict()), expected)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_the_same_step(pair: Pair) -> None:
    folder, ranks = pair
    assert [held["signalled"] for held in ranks] == [{"steps": 4, "finished": False}] * 2
    newest = latest_checkpoint(folder / "signalled" / "checkpoints")
    assert newest is not None
    assert read_checkpoint(newest)["step"] == 4


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_stops_both(pair: Pair) -> None:
    folder, ranks = pair
    assert "another process" in ranks[0]["not_finite"]["said"]
    assert "squared is nan" in ranks[1]["not_finite"]["said"]
    assert (folder / "not_finite" / "rank-1-nan_capture.pt").exists()


def test_sharding_on_a_mesh_of_one(tmp_path: Path) -> None:
    one, other = Pictures(), Pictures()
    train(one, pictures, replace(SHARDED, sharding="none", clip=0.1), tmp_path / "none")
    train(other, pictures, replace(SHARDED, clip=0.1), tmp_path / "fsdp")
    assert_same(full_state(dict(other.state_dict())), dict(one.state_dict()))


def test_a_teacher_is_not_sharded(tmp_path: Path) -> None:
    class Kept(Taught):
        def backbone(self) -> nn.Module:
            return self.teacher

        def trained_backbone(self) -> nn.Module:
            return self.net

    with pytest.raises(InvalidInput, match="keeps a teacher"):
        train(Kept(), batches, SHARDED, tmp_path)
