"""The best weights of a run by validation alone, kept across interruptions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fewsight.files import new_file
from fewsight.training.checkpoints import read_checkpoint

__all__ = ["BestWeights"]


class BestWeights:
    """Keeps the weights with the highest score in `best.pt` of a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "best.pt"
        held = read_checkpoint(self.path) if self.path.exists() else {"score": float("-inf"), "step": -1}
        self.score, self.step = float(held["score"]), int(held["step"])

    def consider(self, module: nn.Module, score: float, step: int) -> bool:
        """Keep the weights if `score` is above the best so far; ties keep the earlier."""
        if not score > self.score:
            return False
        self.score, self.step = score, step
        with new_file(self.path) as file:
            torch.save({"score": score, "step": step, "weights": module.state_dict()}, file)
        return True

    def restore(self, module: nn.Module) -> None:
        """Load the best weights into `module`; nothing happens where none were kept."""
        if self.path.exists():
            module.load_state_dict(read_checkpoint(self.path)["weights"])
