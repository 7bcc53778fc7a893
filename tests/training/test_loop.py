"""The loop: it learns, resumes bit-identically, stops for NaN, and survives signals and a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fewsight.errors import FewsightError, InvalidInput
from fewsight.objectives.objective import Batch, Objective, Terms
from fewsight.seeding import torch_generator
from fewsight.training.checkpoints import latest_checkpoint, read_checkpoint
from fewsight.training.loop import train
from fewsight.training.settings import TrainingSettings


class Regression(Objective):
    """Fits a line through a network with dropout, so that the step's random numbers matter."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch_generator(0, "weights")
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 1))
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)

    def backbone(self) -> nn.Module:
        return self.net

    def forward(self, batch: Batch) -> Terms:
        error = self.net(batch.images[0]) - batch.images[0].sum(1, keepdim=True)
        return Terms({"squared": error.pow(2).mean()})


def batches(number: int) -> Batch:
    return Batch(images=(torch.randn(8, 4, generator=torch_generator(1, "batch", number)),), step=number)


def weights(objective: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in objective.parameters()])


SETTINGS = TrainingSettings(
    steps=60, learning_rate=0.01, warmup_steps=5, checkpoint_every=7, accumulation=2, clip=1.0, ema=0.9
)


def test_learns_and_logs(tmp_path: Path) -> None:
    result = train(Regression(), batches, SETTINGS, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert result.finished
    assert lines[-1]["loss"] < lines[0]["loss"] / 2
    assert [line["step"] for line in lines] == [9, 19, 29, 39, 49, 59]
    assert len(list((tmp_path / "checkpoints").iterdir())) == SETTINGS.keep


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_resumed_run_is_bit_identical(tmp_path: Path, threads: int) -> None:
    whole = Regression()
    train(whole, batches, SETTINGS, tmp_path / "whole")
    broken = Regression()

    def stop(objective: Objective, step: int) -> None:
        if step == 31:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(broken, batches, SETTINGS, tmp_path / "broken", on_step=stop)
    resumed = Regression()
    settings = TrainingSettings(**{**SETTINGS.__dict__, "prefetch": threads})
    train(resumed, batches, settings, tmp_path / "broken")
    assert torch.equal(weights(whole), weights(resumed))
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(set(steps))


def test_not_finite_stops_with_name_and_batch(tmp_path: Path) -> None:
    def poisoned(number: int) -> Batch:
        batch = batches(number)
        if number >= 20:
            batch.images[0][0, 0] = torch.nan
        return batch

    with pytest.raises(FewsightError, match="squared is nan"):
        train(Regression(), poisoned, SETTINGS, tmp_path)
    assert torch.load(tmp_path / "nan_capture.pt", weights_only=True)["step"] == 10
    newest = latest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    held = read_checkpoint(newest)
    assert all(torch.isfinite(value).all() for value in held["objective"].values())


SCRIPT = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from training.test_loop import Regression, batches
    from fewsight.training.loop import train
    from fewsight.training.settings import TrainingSettings
    import torch
    torch.set_num_threads(1)
    def slow(number):
        time.sleep(0.02)
        return batches(number)
    objective = Regression()
    print("ready", flush=True)
    settings = TrainingSettings(steps=60, learning_rate=0.01, checkpoint_every=3)
    result = train(objective, slow, settings, Path(sys.argv[1]))
    torch.save(objective.state_dict(), Path(sys.argv[1]) / "final.pt")
    print("finished" if result.finished else "stopped", flush=True)
"""


def run(folder: Path) -> subprocess.Popen[str]:
    script = textwrap.dedent(SCRIPT.format(tests=str(Path(__file__).resolve().parents[1])))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_sigterm_writes_a_checkpoint_and_resumes(tmp_path: Path) -> None:
    process = run(tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    while latest_checkpoint(tmp_path / "checkpoints") is None:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "stopped\n"
    assert run(tmp_path).communicate(timeout=60)[0] == "ready\nfinished\n"
    whole = Regression()
    train(
        whole, batches, TrainingSettings(steps=60, learning_rate=0.01, checkpoint_every=3), tmp_path / "whole"
    )
    resumed = torch.load(tmp_path / "final.pt", weights_only=True)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.state_dict().items())


def test_full_disk_keeps_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from fewsight.training import checkpoints

    real_save = torch.save

    def full(state: object, file: object) -> None:
        if isinstance(state, dict) and state.get("step", 0) >= 21:
            raise OSError(errno.ENOSPC, "No space left on device")
        real_save(state, file)

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(FewsightError, match="disk is full"):
        train(Regression(), batches, SETTINGS, tmp_path)
    newest = latest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert read_checkpoint(newest)["step"] == 14
    assert not list((tmp_path / "checkpoints").glob(".*.part"))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": -1.0}, {"layer_decay": 0.0}, {"ema": 1.0}])
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        TrainingSettings(**{"steps": 10, **wrong})  # type: ignore[arg-type]
