"""Checkpoints: whole or not there, a few kept, and read without executing anything in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from fewsight.errors import IncompatibleModel
from fewsight.files import new_file

__all__ = ["latest_checkpoint", "read_checkpoint", "save_whole", "write_checkpoint"]

_NAME = re.compile(r"step-(\d{9})\.pt")


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    matches = [(match, path) for path in folder.glob("step-*.pt") if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in matches)


def write_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write `step-000000123.pt` atomically, then delete all but the newest `keep`.

    An earlier checkpoint goes only after the new one stands, so that a full disk leaves the earlier intact.

    Raises:
        FewsightError: the disk is full or read-only.
    """
    path = folder / f"step-{step:09d}.pt"
    save_whole(path, state)
    for _, old in _numbered(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def save_whole(path: Path, state: Any) -> None:
    """`torch.save` to a file that is whole or not there.

    Raises:
        FewsightError: the disk is full or read-only.
    """
    with new_file(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch ends its archive also after a failed write, and that second error hides what the disk said
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint, or None."""
    numbered = _numbered(folder) if folder.is_dir() else []
    return numbered[-1][1] if numbered else None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint.

    Raises:
        IncompatibleModel: the file is damaged, or holds more than tensors and plain values.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise IncompatibleModel(
            f"{path} cannot be read ({type(error).__name__}): delete it to go on from an earlier one."
        ) from error
    return state
