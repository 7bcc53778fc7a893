"""The loop: it learns, resumes bit-identically, stops for NaN, and survives signals and a full disk."""

from __future__ import annotations

import copy
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from fewsight.errors import FewsightError, InvalidInput
from fewsight.objectives.objective import Batch, Objective, Progress, Terms
from fewsight.seeding import stream_seed, torch_generator
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
    captured = torch.load(tmp_path / "nan_capture.pt", weights_only=True)
    assert captured["step"] == 10
    assert captured["images"][0][0, 0].isnan().all()
    torch.set_rng_state(captured["random_state"])  # what is needed to go through it again
    torch.manual_seed(stream_seed(0, "step", 10, 0) >> 1)
    assert torch.equal(torch.get_rng_state(), captured["random_state"])
    newest = latest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    held = read_checkpoint(newest)
    assert all(torch.isfinite(value).all() for value in held["objective"].values())


def test_gradient_that_is_not_finite_never_reaches_a_checkpoint(tmp_path: Path) -> None:
    class Steep(Regression):
        def forward(self, batch: Batch) -> Terms:
            # the square root has the value 0 and an infinite slope
            return Terms({"root": (self.net[3].bias - self.net[3].bias.detach()).abs().sqrt().sum()})

    settings = TrainingSettings(steps=3, checkpoint_every=1)
    with pytest.raises(FewsightError, match="gradient norm is nan"):
        train(Steep(), batches, settings, tmp_path)
    assert latest_checkpoint(tmp_path / "checkpoints") is None


class Calm(Regression):
    """Without dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.net[1].p = 0.0


def test_accumulation_equals_the_big_batch(tmp_path: Path) -> None:
    def halves(number: int) -> Batch:
        images = batches(number // 2).images[0]
        return Batch(images=(images[number % 2 :: 2],), step=number)

    plain = {"steps": 8, "learning_rate": 0.01, "clip": 1.0, "optimiser": "sgd"}
    big, small = Calm(), Calm()
    train(big, batches, TrainingSettings(**plain), tmp_path / "big")  # type: ignore[arg-type]
    train(small, halves, TrainingSettings(**plain, accumulation=2), tmp_path / "small")  # type: ignore[arg-type]
    # float32: the mean of two means of four
    torch.testing.assert_close(weights(small), weights(big), rtol=1e-5, atol=1e-7)


class Taught(Calm):
    """With a frozen teacher that follows, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        self.head = nn.Linear(1, 1)
        self.seen: list[tuple[int, int]] = []

    def forward(self, batch: Batch) -> Terms:
        error = self.head(self.net(batch.images[0])) - self.teacher(batch.images[0]) - 1
        return Terms({"squared": error.pow(2).mean()})

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        self.seen.append((progress.step, progress.total_steps))
        for own, followed in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
            own.lerp_(followed, 0.5)


def test_a_teacher_has_no_gradient_and_stands_once_in_a_checkpoint(tmp_path: Path) -> None:
    settings = TrainingSettings(steps=6, learning_rate=0.05, ema=0.9, checkpoint_every=6)
    objective = Taught()
    train(objective, batches, settings, tmp_path)
    assert objective.seen == [(step, 6) for step in range(1, 7)]
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
    newest = latest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    held = read_checkpoint(newest)
    assert not torch.equal(held["objective"]["teacher.0.weight"], Taught().teacher[0].weight)
    assert not [name for name in held["average"] if name.startswith("teacher")]
    trained = sum(parameter.requires_grad for parameter in objective.parameters())
    assert len(held["optimiser"]["state"]) == trained


def test_backbone_stays_while_heads_warm_up(tmp_path: Path) -> None:
    moved: list[bool] = []
    objective = Taught()
    start = objective.net[0].weight.detach().clone()

    def watch(seen: Objective, step: int) -> None:
        moved.append(not torch.equal(objective.net[0].weight, start))

    settings = TrainingSettings(steps=5, learning_rate=0.05, backbone_frozen_steps=3, weight_decay=0.1)
    train(objective, batches, settings, tmp_path, on_step=watch)
    assert moved == [False, False, False, True, True]


def test_probe_sees_the_average_that_is_kept(tmp_path: Path) -> None:
    probed: list[Tensor] = []

    def probe(objective: Objective, step: int) -> dict[str, float]:
        probed.append(weights(objective).clone())
        return {"step_seen": float(step)}

    objective = Calm()
    settings = TrainingSettings(steps=20, learning_rate=0.05, ema=0.9)
    train(objective, batches, settings, tmp_path / "with", probe=probe, probe_every=10)
    assert torch.equal(probed[-1], weights(objective))
    unwatched = Calm()
    train(unwatched, batches, settings, tmp_path / "without")
    assert torch.equal(weights(unwatched), weights(objective)), "probing changes nothing"


def test_disk_that_refuses_in_the_middle_of_a_checkpoint(tmp_path: Path) -> None:
    """A real refusal: files may not grow beyond 2 kB any more, as on a disk that has filled up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(objective: Objective, step: int) -> None:
        if step == 15:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))

    try:
        with pytest.raises(
            FewsightError, match=r"cannot write .*step-000000021\.pt: the file is larger than"
        ):
            train(Regression(), batches, SETTINGS, tmp_path, on_step=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    newest = latest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert read_checkpoint(newest)["step"] == 14
    assert not list((tmp_path / "checkpoints").glob(".*.part"))
    whole, resumed = Regression(), Regression()
    train(resumed, batches, SETTINGS, tmp_path)
    train(whole, batches, SETTINGS, tmp_path / "whole")
    assert torch.equal(weights(whole), weights(resumed))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo looks at it
@pytest.mark.parametrize("option", [{"recompute": True}, {"compile": True}])
def test_recomputed_and_compiled_runs_give_the_same(
    tmp_path: Path, option: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []

    def plain_compile(self: nn.Module) -> None:  # the default compiler takes a minute
        compiled.append(self)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", plain_compile)
    plain = {"steps": 5, "learning_rate": 0.01}
    one, other = Calm(), Calm()
    train(one, batches, TrainingSettings(**plain), tmp_path / "one")  # type: ignore[arg-type]
    train(other, batches, TrainingSettings(**plain, **option), tmp_path / "other")  # type: ignore[arg-type]
    assert torch.equal(weights(one), weights(other))
    assert len(compiled) == (2 if "compile" in option else 0), "both linear layers"


def test_tensorboard_is_written_or_its_absence_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainingSettings(steps=3, tensorboard=True, log_every=1)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(FewsightError, match=r"pip install 'fewsight\[tensorboard\]'"):
        train(Calm(), batches, settings, tmp_path / "missing")
    written: list[tuple[str, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            written.append((folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, step))

        def close(self) -> None:
            written.append(("closed", 0))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    train(Calm(), batches, settings, tmp_path / "there")
    assert written[0] == (str(tmp_path / "there" / "tensorboard"), 0)
    assert [step for name, step in written if name == "loss"] == [0, 1, 2]
    assert written[-1] == ("closed", 0)


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"learning_rate": -1.0},
        {"layer_decay": 0.0},
        {"ema": 1.0},
        {"clip": 0.0},
        {"schedule_stretch": 0.5},
    ],
)
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        TrainingSettings(**{"steps": 10, **wrong})  # type: ignore[arg-type]
