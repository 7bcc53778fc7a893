"""A loss or gradient that is not finite stops a run: the term is named, batch and random numbers are saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewsight import distributed
from fewsight.errors import FewsightError
from fewsight.objectives.objective import Batch
from fewsight.training.checkpoints import save_whole

__all__ = ["check_finite"]

NAME = "nan_capture.pt"


def check_finite(
    values: Mapping[str, Tensor], batch: Batch, random_state: Tensor, step: int, folder: Path
) -> None:
    """Go on only if every value is finite on every process; a collective call.

    Args:
        values: by name.
        batch: what they came from.
        random_state: torch's, as it was before the batch was used.
        step: counted from 0.
        folder: `nan_capture.pt` is written there: step, random state, and everything in the batch.

    Raises:
        FewsightError: naming the first value that is not.
    """
    wrong = [name for name, value in values.items() if not torch.isfinite(value).all()]
    anywhere = distributed.all_reduce_max(torch.tensor(float(bool(wrong))))
    if not float(anywhere):
        return
    if not wrong:
        raise FewsightError(f"step {step}: a loss is not finite on another process, which says more.")
    path = folder / (f"rank-{distributed.rank()}-{NAME}" if distributed.is_distributed() else NAME)
    save_whole(path, {**_plain(batch), "step": step, "random_state": random_state})
    raise FewsightError(
        f"step {step}: {wrong[0]} is {float(values[wrong[0]].detach().float().mean())}. The batch and its random "
        f"numbers are saved in {path}; no checkpoint holds this step. Lower the learning rate, lengthen the warm-up or "
        "set clip, and resume."
    )


def _plain(batch: Batch) -> dict[str, Any]:
    """What a file may hold that is read without executing anything."""
    held = {field.name: getattr(batch, field.name) for field in fields(batch)}
    held["images"] = list(batch.images)
    held["features"] = (
        None if batch.features is None else [part for part in batch.features if part is not None]
    )
    return {name: value for name, value in held.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, Tensor | int | float | str)
