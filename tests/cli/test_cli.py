"""The command line: fast help without torch, exit codes, one-line errors, JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from photo_folders import write_labelled, write_pile

from fewsight.cli.main import VERBS


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fewsight", *words], capture_output=True, text=True, check=False, cwd=cwd
    )


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_loads_no_torch(verb: str) -> None:
    script = (
        "import sys\nfrom fewsight.cli.main import main\n"
        f"try: main([{verb!r}, '--help'] if {verb!r} else ['--help'])\n"
        "except SystemExit as stop: sys.exit(9 if {'torch', 'numpy', 'PIL'} & set(sys.modules) else stop.code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: fewsight" in done.stdout


def test_exit_codes(tmp_path: Path) -> None:
    assert run("predict").returncode == 2
    assert run("nonsense").returncode == 2
    done = run("predict", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "run"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("fewsight: ")
    assert "Traceback" not in done.stderr


def test_predict_as_a_person_calls_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path / "cache"))
    write_labelled(tmp_path / "my labelled")
    write_pile(tmp_path / "pile", 2)
    words = [
        "predict",
        "my labelled",
        "pile",
        "--out",
        "run",
        "--image-size",
        "64",
        "--backbone",
        "fewsight-bundled",
    ]
    done = run(*words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["photos"] == 6
    assert told["status"]["ok"] == 6
    again = run(*words, cwd=tmp_path)
    assert again.returncode == 1
    assert "--resume" in again.stderr
    checked = run("doctor", "my labelled", "pile", "--image-size", "64", "--json", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["classes"] == {"dots": 3, "plain": 3, "stripes": 3}


def test_interrupted_says_so(tmp_path: Path) -> None:
    script = (
        "import fewsight.workflows.cache as cache\n"
        "def interrupted(): raise KeyboardInterrupt\n"
        "cache.cache_usage = interrupted\n"
        "from fewsight.cli.main import main\nmain(['cache'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "--resume" in done.stderr
