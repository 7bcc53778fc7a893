"""A run that is killed ten times, twice inside a checkpoint write, ends with the same weights, bit by bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from fewsight.training.checkpoints import latest_checkpoint
from fewsight.training.loop import train
from fewsight.training.settings import TrainingSettings
from training.test_loop import Regression, batches

STEPS, KILLS = 200, 10
SETTINGS = {"steps": STEPS, "learning_rate": 0.01, "checkpoint_every": 5, "accumulation": 2, "ema": 0.9}

SCRIPT = """
    import os, signal, sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import torch
    from training.test_loop import Regression, batches
    from fewsight.training import checkpoints
    from fewsight.training.loop import train
    from fewsight.training.settings import TrainingSettings
    torch.set_num_threads(1)
    save, dies = torch.save, int(sys.argv[2])
    def dying(state, file):
        save(state, file)
        if isinstance(state, dict) and state.get("step", 0) >= dies > 0:
            file.truncate(file.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)
    checkpoints.torch.save = dying
    def slow(number):
        time.sleep(0.012)
        return batches(number)
    objective = Regression()
    print("ready", flush=True)
    train(objective, slow, TrainingSettings(**{settings!r}), Path(sys.argv[1]))
    save(objective.state_dict(), Path(sys.argv[1]) / "final.pt")
"""


def start(folder: Path, dies_at: int = 0) -> subprocess.Popen[str]:
    tests = str(Path(__file__).resolve().parents[1])
    script = textwrap.dedent(SCRIPT.format(tests=tests, settings=SETTINGS))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", script, str(folder), str(dies_at)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=120)
    return process.returncode


def step_of(folder: Path) -> int:
    newest = latest_checkpoint(folder / "checkpoints")
    return 0 if newest is None else int(newest.stem.removeprefix("step-"))


@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    generator = random.Random(0)
    for kill in range(KILLS):
        inside_a_write = kill in (3, 7)
        process = start(tmp_path, step_of(tmp_path) + 10 if inside_a_write else 0)
        if not inside_a_write:
            time.sleep(generator.uniform(0.0, 0.5))
            process.send_signal(signal.SIGKILL)
        assert ended(process) == -signal.SIGKILL
    assert 0 < step_of(tmp_path) < STEPS
    assert ended(start(tmp_path)) == 0
    whole = Regression()
    train(whole, batches, TrainingSettings(**SETTINGS), tmp_path / "whole")  # type: ignore[arg-type]
    final = torch.load(tmp_path / "final.pt", weights_only=True)
    assert all(torch.equal(value, final[name]) for name, value in whole.state_dict().items())
    assert not list((tmp_path / "checkpoints").glob("step-*.pt"))[2:], "only two checkpoints are kept"
