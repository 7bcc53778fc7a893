from __future__ import annotations

import io
import sys

import pytest

from fewsight.progress import PLAIN_SECONDS, Progress, duration, quieted, say, track


class Clock:
    """A time that passes when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_with_rate_and_time_left(capsys):
    clock = Clock()
    with Progress("encoding", 100, clock=clock) as progress:
        for _ in range(5):
            clock.now += PLAIN_SECONDS / 2
            progress.advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "encoding: 20 of 100 (20 %) photos, 2/s, 40 s left"
    assert lines[-1] == "encoding: 50 of 100 (50 %) photos, 2/s, 25 s left"
    assert len(lines) == 3


def test_short_work_prints_nothing(capsys):
    assert list(track(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_quiet(capsys):
    clock = Clock()
    with quieted(), Progress("encoding", 2, clock=clock) as progress:
        clock.now += 1000
        progress.advance(2)
        say("not this")
    say("but this")
    assert capsys.readouterr().err == "but this\n"


def test_once(capsys):
    for _ in range(2):
        say("a line that is said once", once=True)
    assert capsys.readouterr().err.count("\n") == 1


def test_work_done_before_does_not_count_for_the_rate():
    clock = Clock()
    with quieted(), Progress("encoding", 110, done=100, clock=clock) as progress:
        assert progress.seconds_left is None
        clock.now += 2
        progress.advance(4)
        assert progress.rate == 2
        assert progress.seconds_left == 3


@pytest.mark.parametrize("total", [None, 0])
def test_without_a_total(total):
    clock = Clock()
    with quieted(), Progress("reading", total, unit="files", clock=clock) as progress:
        clock.now += 1
        progress.advance(3)
        assert progress.line() == "reading: 3 files, 3/s"


def test_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = sys.stderr
    with Progress("encoding", 4) as progress:
        progress.advance(2)
        say("a note above the bar")
        progress.advance(2)
    shown = terminal.getvalue()
    assert "encoding" in shown
    assert "4/4" in shown
    assert "a note above the bar" in shown


def test_duration_rounds_to_what_matters():
    assert duration(59.6) == "1 min"
    assert duration(-3) == "0 s"
