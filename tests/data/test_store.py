"""The pixel store: what goes in comes out, a killed build goes on, damage is found."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from fewsight.data.store import build_store, open_store
from fewsight.errors import IncompatibleModel

COUNT, SIZE, BLOCK = 25, (6, 5), 4


def image(row: int) -> numpy.ndarray | None:
    if row == 7:
        return None
    return numpy.random.default_rng(row).integers(0, 256, (*SIZE, 3), numpy.uint8)


class Reader:
    """Counts the photos it decodes, and dies before photo `dies_at`."""

    def __init__(self, dies_at: int = COUNT) -> None:
        self.dies_at, self.decoded = dies_at, 0

    def __call__(self, first: int, last: int) -> Iterator[numpy.ndarray | None]:
        for row in range(first, last):
            if row == self.dies_at:
                raise KeyboardInterrupt
            self.decoded += 1
            yield image(row)


def check(folder: Path) -> None:
    store = open_store(folder, check=True)
    assert len(store) == COUNT
    assert store.size == SIZE
    assert store.unreadable == {7}
    for row in range(COUNT):
        expected = image(row)
        assert (store.pixels[row] == (0 if expected is None else expected)).all()
    assert store.rows([3, 1]).shape == (2, 3, *SIZE)
    assert (store.rows([3, 1])[1].permute(1, 2, 0).numpy() == image(1)).all()


def test_round_trip_and_second_build_reads_nothing(tmp_path: Path) -> None:
    build_store(tmp_path, COUNT, SIZE, "a", Reader(), block=BLOCK)
    check(tmp_path)
    again = Reader()
    build_store(tmp_path, COUNT, SIZE, "a", again, block=BLOCK)
    assert again.decoded == 0


@pytest.mark.parametrize("dies_at", [0, 3, 4, 13, 24])
def test_killed_build_goes_on(tmp_path: Path, dies_at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_store(tmp_path, COUNT, SIZE, "a", Reader(dies_at), block=BLOCK)
    if dies_at > 3:
        with pytest.raises(IncompatibleModel, match="unfinished"):
            open_store(tmp_path)
    reader = Reader()
    build_store(tmp_path, COUNT, SIZE, "a", reader, block=BLOCK)
    assert reader.decoded == COUNT - dies_at // BLOCK * BLOCK
    check(tmp_path)


def test_other_photos_make_it_anew(tmp_path: Path) -> None:
    build_store(tmp_path, COUNT, SIZE, "a", Reader(), block=BLOCK)
    reader = Reader()
    build_store(tmp_path, COUNT, SIZE, "b", reader, block=BLOCK)
    assert reader.decoded == COUNT


def test_changed_pixels_are_found(tmp_path: Path) -> None:
    build_store(tmp_path, COUNT, SIZE, "a", Reader(), block=BLOCK)
    with (tmp_path / "pixels.bin").open("r+b") as file:
        file.seek(100)
        file.write(b"\x00\xff\x00")
    open_store(tmp_path)
    with pytest.raises(IncompatibleModel, match="changed"):
        open_store(tmp_path, check=True)
    with pytest.raises(IncompatibleModel, match="no store"):
        open_store(tmp_path / "nothing")


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from data.test_store import COUNT, SIZE, image
from fewsight.data.store import build_store
def slow(first, last):
    for row in range(first, last):
        time.sleep(0.04)
        yield image(row)
print("ready", flush=True)
build_store(Path(sys.argv[1]), COUNT, SIZE, "a", slow, block=4)
"""


@pytest.mark.slow
def test_sigkill_at_any_moment_leaves_a_store_that_is_finished_later(tmp_path: Path) -> None:
    script = SCRIPT.format(tests=str(Path(__file__).resolve().parents[1]))
    generator = random.Random(0)

    def run() -> subprocess.Popen[str]:
        words = [sys.executable, "-c", script, str(tmp_path)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    for _ in range(3):
        process = run()
        time.sleep(generator.uniform(0.1, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with pytest.raises(IncompatibleModel):
            open_store(tmp_path)
    assert run().communicate()[0] == ""
    check(tmp_path)
