"""The best weights of a run by validation alone, kept across interruptions."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fewsight import distributed
from fewsight.evaluation.intervals import Interval
from fewsight.training.checkpoints import read_checkpoint, save_whole
from fewsight.training.sharding import full_state, load_full

__all__ = ["BestWeights"]


class BestWeights:
    """Keeps the weights with the highest mean score in `best.pt` of a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "best.pt"
        self.step, self.interval = -1, Interval(float("-inf"), float("nan"), float("nan"), 0)
        if self.path.exists():
            held = read_checkpoint(self.path)
            self.step, self.interval = int(held["step"]), Interval(*held["score"])

    @property
    def score(self) -> float:
        """The best mean so far."""
        return self.interval.mean

    def consider(self, module: nn.Module, score: Interval, step: int) -> bool:
        """Keep the weights if the mean of `score` is above the best so far; ties keep the earlier."""
        if not score.mean > self.score:
            return False
        self.interval, self.step = score, step
        weights = full_state(dict(module.state_dict()))
        if distributed.is_main():
            kept = [score.mean, score.low, score.high, score.n]
            save_whole(self.path, {"score": kept, "step": step, "weights": weights})
        return True

    def restore(self, module: nn.Module) -> None:
        """Load the best weights into `module`; nothing happens where none were kept. A collective call."""
        distributed.barrier()
        if self.path.exists():
            load_full(module, read_checkpoint(self.path)["weights"])
