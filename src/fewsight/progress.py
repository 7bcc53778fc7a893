"""Long work shows itself: a bar with rate and time left on a terminal, a plain line now and then elsewhere.

Everything goes to standard error, so that standard output stays free for results. `quieted()` silences all of
it, `say` included.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, TypeVar

__all__ = ["Progress", "duration", "quieted", "say", "track"]

Item = TypeVar("Item")

PLAIN_SECONDS = 10.0  # between two plain lines

_quiet: contextvars.ContextVar[bool] = contextvars.ContextVar("fewsight_quiet", default=False)
_said: set[str] = set()


@contextlib.contextmanager
def quieted(quiet: bool = True) -> Iterator[None]:
    """No bars, no lines within the block."""
    token = _quiet.set(quiet)
    try:
        yield
    finally:
        _quiet.reset(token)


def say(text: str, *, once: bool = False) -> None:
    """One line to the person at the keyboard; with `once`, the same text only once in a process."""
    if _quiet.get() or (once and text in _said):
        return
    if once:
        _said.add(text)
    print(text, file=sys.stderr, flush=True)  # under a live bar, rich moves it above the bar


def duration(seconds: float) -> str:
    """A time in words, to the precision that matters.

    >>> [duration(s) for s in (0.4, 59, 61, 3725, 90000)]
    ['0 s', '59 s', '1 min 1 s', '1 h 2 min', '1 d 1 h']
    """
    whole = max(0, round(seconds))
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


class Progress:
    """How far some work is: a context manager that is told of each step.

    Args:
        what: in a word or two, `encoding`.
        total: how many there are; None if unknown.
        unit: what is counted, `photos`.
        done: how many were finished before (a resumed run); they do not count for the rate.

    Attributes:
        note: a few words that are shown after the rate; may be changed at any time.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        *,
        unit: str = "photos",
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self._before = done
        self.note = ""
        self._clock = clock
        self._start = self._last_line = clock()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._start = self._last_line = self._clock()
        if not _quiet.get() and sys.stderr.isatty():
            self._bar = _rich_bar(self.unit)
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total, completed=self.done, rate="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and self._last_line > self._start:
            say(self.line())

    def advance(self, count: int = 1) -> None:
        """`count` more are finished."""
        self.done += count
        if self._bar is not None:
            rate = f"{self.rate:.3g} {self.unit}/s"
            self._bar.update(
                self._task, completed=self.done, rate=f"{rate}, {self.note}" if self.note else rate
            )
        elif self._clock() - self._last_line >= PLAIN_SECONDS:
            self._last_line = self._clock()
            say(self.line())

    @property
    def rate(self) -> float:
        """Finished a second since the start."""
        elapsed = self._clock() - self._start
        return (self.done - self._before) / elapsed if elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Expected time to the end; None where the total or the rate is not known."""
        if self.total is None or not self.rate:
            return None
        return max(0, self.total - self.done) / self.rate

    def line(self) -> str:
        """The state as one plain line."""
        share = "" if not self.total else f" of {self.total} ({100 * self.done / self.total:.0f} %)"
        left = self.seconds_left
        tail = "" if left is None or not left else f", {duration(left)} left"
        note = f", {self.note}" if self.note else ""
        return f"{self.what}: {self.done}{share} {self.unit}, {self.rate:.3g}/s{tail}{note}"


def track(
    items: Iterable[Item], what: str, total: int | None = None, *, unit: str = "photos"
) -> Iterator[Item]:
    """Pass items through and show how far it is.

    >>> with quieted():
    ...     list(track(range(3), "counting", unit="numbers"))
    [0, 1, 2]
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(what, total, unit=unit) as progress:
        for item in items:
            yield item
            progress.advance()


def _rich_bar(unit: str) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import (
        Progress as RichProgress,
    )

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=False,
    )
