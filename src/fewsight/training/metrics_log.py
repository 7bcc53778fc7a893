"""`metrics.jsonl`: one JSON object a line; on resume the lines after the checkpoint are cut off."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from fewsight.errors import FewsightError
from fewsight.files import new_file, said_of_disk

__all__ = ["MetricsLog", "SilentLog"]


class MetricsLog:
    """Appends `step`, `time` (seconds since the epoch) and named scalars.

    Args:
        folder: of the run.
        from_step: lines of this step and later ones are cut off.
        tensorboard: write event files into `tensorboard/` too, by torch's own writer.

    Raises:
        FewsightError: TensorBoard is wanted and not installed, or the disk refuses.
    """

    def __init__(self, folder: Path, *, from_step: int = 0, tensorboard: bool = False) -> None:
        self.path = folder / "metrics.jsonl"
        self._board = _summary_writer(folder / "tensorboard", from_step) if tensorboard else None
        self._cut(from_step)
        with said_of_disk(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")

    def _cut(self, from_step: int) -> None:
        if not self.path.exists():
            return
        kept = [
            line for line in self.path.read_text(encoding="utf-8").splitlines() if _step_of(line) < from_step
        ]
        with new_file(self.path, "w") as file:
            file.writelines(line + "\n" for line in kept)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line, flushed, so that a run can be followed."""
        with said_of_disk(self.path):
            self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)


class SilentLog(MetricsLog):
    """What the processes hold that do not write."""

    def __init__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a half-written last line goes


def _summary_writer(folder: Path, from_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise FewsightError(
            "TensorBoard is not installed: `pip install 'fewsight[tensorboard]'`, or leave training.tensorboard out; "
            "metrics.jsonl holds the same figures."
        ) from error
    with said_of_disk(folder):
        return SummaryWriter(str(folder), purge_step=from_step)
