"""`embed` as its user calls it: one row a photo, the same bytes after a kill, and from two parts as from one."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from photo_folders import write_bad_files, write_pile
from safetensors.torch import load_file

from fewsight.backbones.encode import Encoder, encode_photos
from fewsight.backbones.loading import load_backbone
from fewsight.data.layouts import read_layout
from fewsight.errors import InvalidInput, RunExists, UnreadableImage
from fewsight.workflows import embed as module
from fewsight.workflows.embed import Embedding, embed
from fewsight.workflows.feature_shards import COLUMNS, is_embedding, read_shard
from fewsight.workflows.run_record import read_record

SETTINGS = {
    "backbone": "fewsight-bundled",
    "image_size": 64,
    "quiet": True,
    "device": "cpu",
    "precision": "fp32",
    "batch_size": 2,
    "shard_size": 4,
    "threads": 1,
}


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    return write_pile(tmp_path / "pile")


def run(photos: Path, out: Path, **changes: object) -> Embedding:
    return embed(photos, out, **(SETTINGS | changes))  # type: ignore[arg-type]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    """What a run gives, byte for byte."""
    named = [*folder.glob("features-*.safetensors"), folder / "index.csv"]
    return {path.name: path.read_bytes() for path in named}


def test_each_row_of_the_index_leads_to_the_features_of_its_photo(pile: Path, tmp_path: Path) -> None:
    result = run(pile, tmp_path / "run")
    table = rows(result.folder)
    assert tuple(table[0]) == COLUMNS
    assert [row["file"] for row in table] == sorted(path.name for path in pile.iterdir())
    assert (result.photos, result.shards, result.missing, result.counts) == (12, 3, 0, {"ok": 12})
    shards = {name: load_file(result.folder / name)["features"] for name in {row["shard"] for row in table}}
    stored = torch.stack([shards[row["shard"]][int(row["row"])] for row in table])
    encoder = Encoder(load_backbone("fewsight-bundled", image_size=64), precision="fp32", vectors=True)
    batches = encode_photos(encoder, read_layout(pile, labels="optional").collection, batch_size=12)
    expected = torch.cat([batch.features.cls for batch in batches])
    # other batches sum in another order: a few units in the last place of float32
    torch.testing.assert_close(stored, expected, rtol=1e-4, atol=1e-5)
    assert is_embedding(result.folder)
    assert any("12 ok" in sentence for sentence in result.sentences())
    settings = read_record(result.folder).settings
    assert (settings["threads"], settings["precision"], settings["batch_size"]) == (1, "float32", 2)


def test_every_bad_file_has_its_row(tmp_path: Path) -> None:
    folder = tmp_path / "pile"
    folder.mkdir()
    expected = write_bad_files(folder)
    result = run(folder, tmp_path / "run")
    table = {row["file"]: row for row in rows(result.folder)}
    for name, status in expected.items():
        if b"\xff" not in name and name != b"pipe.jpg":
            assert table[os.fsdecode(name)]["status"] == status, name
    for row in table.values():
        assert (row["row"] == "") == (row["status"] in ("unreadable", "refused"))
        assert row["status"] == "ok" or row["note"]
    assert sum(result.counts.values()) == len(table) == result.photos
    held = sum(len(load_file(path)["features"]) for path in result.folder.glob("*.safetensors"))
    assert held == sum(row["row"] != "" for row in table.values())
    with pytest.raises(UnreadableImage, match="--strict"):
        run(folder, tmp_path / "strict", strict=True)


def test_a_killed_run_goes_on_to_the_same_bytes(pile: Path, tmp_path: Path) -> None:
    whole = contents(run(pile, tmp_path / "whole").folder)
    broken = tmp_path / "broken"
    # the process dies within the writing of the second shard, by a signal that nothing can catch
    script = f"""
import os, signal
import fewsight.files
from fewsight.workflows.embed import embed
flush = os.fsync
shards = []
def killing(number):
    flush(number)
    shards.append(number)
    if len(shards) == 3:  # run.yaml, the first shard, the second
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = killing
embed({str(pile)!r}, {str(broken)!r}, **{SETTINGS!r})
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in broken.glob("features-*")] == ["features-00000.safetensors"]
    assert list(broken.glob(".features-00001.*.part"))
    first = (broken / "features-00000.safetensors").stat().st_mtime_ns
    result = run(pile, broken, resume=True, threads=None, workers=0)
    assert contents(result.folder) == whole
    assert (broken / "features-00000.safetensors").stat().st_mtime_ns == first
    assert not list(broken.glob(".features*.part"))
    assert read_record(broken) == read_record(tmp_path / "whole")


@pytest.mark.slow
def test_killed_ten_times_and_still_the_same_bytes(tmp_path: Path) -> None:
    pile = write_pile(tmp_path / "pile", each=8)
    settings = SETTINGS | {"batch_size": 1, "shard_size": 2, "workers": 1}
    whole = contents(run(pile, tmp_path / "whole", **settings).folder)  # twelve shards
    # one process imports everything; ten children die in turn, within the writing of a shard or right after it
    script = f"""
import os, signal
from fewsight.workflows.embed import embed
import fewsight.files
flush = os.fsync
for kill in range(10):
    child = os.fork()
    if not child:
        written = []
        def killing(number):
            flush(number)
            written.append(number)
            if len(written) == 1 + kill % 3 + (kill == 0):  # the first also writes run.yaml
                os.kill(os.getpid(), signal.SIGKILL)
        os.fsync = killing
        embed({str(pile)!r}, {str(tmp_path / "broken")!r}, **{settings!r}, resume=kill > 0)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (kill, status)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=300)
    assert 0 < len(list((tmp_path / "broken").glob("features-*"))) < 12
    result = run(pile, tmp_path / "broken", resume=True, **settings)
    assert contents(result.folder) == whole
    assert not list(result.folder.glob(".features*.part"))


@pytest.mark.slow
def test_two_ranks_of_torchrun_give_the_shards_of_one(pile: Path, tmp_path: Path) -> None:
    whole = contents(run(pile, tmp_path / "whole").folder)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command += ["-m", "fewsight.cli", "embed", str(pile), "--out", str(tmp_path / "ranks"), "--threads", "1"]
    command += [
        "--backbone",
        "fewsight-bundled",
        "--image-size",
        "64",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    command += ["--batch-size", "2", "--shard-size", "4", "--quiet"]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    assert contents(tmp_path / "ranks") == whole


def test_a_finished_run_is_not_made_again(
    pile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(run(pile, tmp_path / "run").folder)
    monkeypatch.setattr(module, "encode_photos", None)
    assert contents(run(pile, tmp_path / "run", resume=True).folder) == before


def test_two_parts_in_one_folder_give_what_one_gives(
    pile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(run(pile, tmp_path / "whole").folder)
    first = run(pile, tmp_path / "parts", shard="0/2")
    assert first.missing == 1
    assert {path.name for path in first.folder.glob("*.safetensors")} == {
        "features-00000.safetensors",
        "features-00002.safetensors",
    }
    assert len(rows(first.folder)) == 8
    monkeypatch.setenv("RANK", "1")  # as torchrun says it
    monkeypatch.setenv("WORLD_SIZE", "2")
    second = run(pile, tmp_path / "parts")
    assert second.missing == 0
    assert contents(second.folder) == whole
    (pile / "later.png").write_bytes((pile / "dots-0.png").read_bytes())
    with pytest.raises(InvalidInput, match="content of photos"):
        run(pile, tmp_path / "parts")


def test_parts_join_only_their_own_run(pile: Path, tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "letter.txt").write_text("dear")
    with pytest.raises(RunExists, match=r"letter\.txt"):
        run(pile, tmp_path / "held", shard="0/2")
    with pytest.raises(InvalidInput, match="--force"):
        run(pile, tmp_path / "new", shard="0/2", force=True)
    for wrong in ("2/2", "a/2", "1", "0/0"):
        with pytest.raises(InvalidInput, match="0 <= i < n"):
            run(pile, tmp_path / "new", shard=wrong)


def test_another_run_is_refused_and_nothing_is_overwritten(pile: Path, tmp_path: Path) -> None:
    run(pile, tmp_path / "run")
    with pytest.raises(RunExists, match="--resume"):
        run(pile, tmp_path / "run")
    with pytest.raises(InvalidInput, match="--batch-size was 2, now 4"):
        run(pile, tmp_path / "run", resume=True, batch_size=4)
    forced = run(pile, tmp_path / "run", force=True, shard_size=5)
    assert forced.shards == 2  # five photos are raised to six, a multiple of the batch
    assert len(read_shard(forced.folder / "features-00000.safetensors")) == 6


def test_a_damaged_shard_is_named(pile: Path, tmp_path: Path) -> None:
    result = run(pile, tmp_path / "run")
    (result.folder / "features-00001.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(InvalidInput, match=r"features-00001\.safetensors is damaged"):
        run(pile, tmp_path / "run", resume=True)
