"""Batches made ahead of the step that uses them; what a batch holds depends on its step alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from fewsight.objectives.objective import Batch

__all__ = ["BatchSource", "Prefetched"]

BatchSource = Callable[[int], Batch]  # number of the batch -> batch; the same number gives the same batch


class Prefetched:
    """Iterates over the batches `first .. last - 1` in order, made ahead by `threads` threads.

    `waited` is the time in seconds that the consumer spent waiting for data.
    """

    def __init__(self, source: BatchSource, first: int, last: int, threads: int) -> None:
        self.source, self.first, self.last, self.threads = source, first, last, threads
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        if self.threads == 0:
            for number in range(self.first, self.last):
                yield self._timed(partial(self.source, number))
            return
        with ThreadPoolExecutor(self.threads) as pool:
            ahead: deque[Future[Batch]] = deque()
            numbers = iter(range(self.first, self.last))
            try:
                for number in numbers:
                    ahead.append(pool.submit(self.source, number))
                    if len(ahead) > self.threads:
                        yield self._timed(ahead.popleft().result)
                while ahead:
                    yield self._timed(ahead.popleft().result)
            finally:
                for future in ahead:
                    future.cancel()

    def _timed(self, make: Callable[[], Batch]) -> Batch:
        started = time.perf_counter()
        batch = make()
        self.waited += time.perf_counter() - started
        return batch
