"""Ctrl-C and SIGTERM: a flag that all ranks read together; the second signal leaves at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch

from fewsight.distributed import all_reduce_sum, is_distributed

__all__ = ["Interruption"]


class Interruption:
    """While the block runs, the first SIGINT or SIGTERM only sets a flag."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def wanted(self) -> bool:
        """Whether any rank was asked to stop; a collective call, so every rank answers alike."""
        if not is_distributed():
            return self.signal is not None
        return bool(all_reduce_sum(torch.tensor(float(self.signal is not None))) > 0)
