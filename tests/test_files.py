from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys

import pytest

from fewsight import files
from fewsight.errors import FewsightError, InvalidInput, RunExists


def test_new_file_appears_whole_with_usual_permissions(tmp_path):
    target = tmp_path / "deep" / "a.bin"
    with files.new_file(target) as file:
        file.write(b"one")
        assert not target.exists()
    assert target.read_bytes() == b"one"
    assert [entry.name for entry in target.parent.iterdir()] == ["a.bin"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert target.stat().st_mode == plain.stat().st_mode


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    files.write_text(target, "old")
    with pytest.raises(KeyError), files.new_file(target, "w") as file:
        file.write({}["new"])
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_line_ends_stay_as_given(tmp_path):
    files.write_text(tmp_path / "a", "x\r\ny\n")
    assert (tmp_path / "a").read_bytes() == b"x\r\ny\n"


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "may not write")],
)
def test_disk_refusals_become_sentences(number, words):
    with pytest.raises(FewsightError, match=words), files.said_of_disk("out/x.csv"):
        raise OSError(number, os.strerror(number))


def test_full_disk_while_writing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FewsightError, match="disk is full"):
        files.write_text(tmp_path / "a", "x")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_another_file_is_not_blamed_on_the_target(tmp_path):
    with pytest.raises(FileNotFoundError), files.new_file(tmp_path / "a") as file:
        file.write((tmp_path / "absent").read_bytes())


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(FewsightError, match=r"in the way|is a file"):
        files.write_text(tmp_path / "a" / "b", "x")


def test_json_refuses_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"ü": 1})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ü": 1}
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", float("nan"))


def test_sha256(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    with pytest.raises(InvalidInput, match="absent"):
        files.sha256(tmp_path / "absent")


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path))
    assert files.cache_folder() == tmp_path
    monkeypatch.delenv("FEWSIGHT_CACHE")
    assert files.cache_folder().name == "fewsight"


def test_run_folder_is_never_overwritten_unasked(tmp_path):
    run = tmp_path / "run"
    with files.run_folder(run):
        files.write_text(run / "run.yaml", "seed: 0")
        files.write_text(run / "mine.txt", "kept")
    with pytest.raises(RunExists, match="--resume"), files.run_folder(run):
        pass
    with files.run_folder(run, resume=True):
        assert (run / "run.yaml").exists()
    (run / "model").mkdir()
    with files.run_folder(run, force=True):
        assert sorted(entry.name for entry in run.iterdir()) == [files.LOCK, "mine.txt"]


def test_run_folder_is_locked_between_processes(tmp_path):
    script = (
        "import sys; from fewsight.files import run_folder; from fewsight.errors import RunExists\n"
        "try:\n    with run_folder(sys.argv[1]): print('in')\nexcept RunExists as e: print('locked', e)"
    )
    with files.run_folder(tmp_path):
        told = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
        assert told.stdout.startswith("locked")
        assert "in use" in told.stdout
        with pytest.raises(RunExists), files.run_folder(tmp_path):
            pass
    told = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
    assert told.stdout == "in\n"


def test_force_follows_no_link_out_of_the_folder(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "photo.jpg").write_text("")
    run = tmp_path / "run"
    run.mkdir()
    (run / "model").symlink_to(outside)
    with files.run_folder(run, force=True):
        pass
    assert (outside / "photo.jpg").exists()
