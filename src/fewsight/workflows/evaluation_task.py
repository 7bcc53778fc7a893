"""What `fewsight evaluate` is asked for: one frozen value that every protocol reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fewsight.errors import InvalidInput
from fewsight.names import choices

__all__ = ["EvaluationTask"]


@dataclass(frozen=True)
class EvaluationTask:
    """The options of `evaluate`, see there. A protocol refuses those that mean nothing to it."""

    source: Path
    protocol: str = "episodes"
    backbone: str = "auto"
    head: str = "prototypes"
    against: str | None = None
    way: int | None = None
    shots: tuple[int, ...] = (1, 5)
    query: int = 15
    episodes: int = 600
    split: str | None = None
    group_by: str | None = None
    image_size: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    device: str = "auto"
    precision: str = "auto"
    seed: int = 0
    class_level: Literal["top", "leaf"] = "top"
    skip_empty: bool = False
    save_episodes: Path | None = None
    load_episodes: Path | None = None
    fold: int | None = None
    supports: Literal["labels", "masks"] = "labels"
    episode_task: Literal["fs-cs", "fs-s", "fs-c"] = "fs-cs"
    void: Literal["strict", "published"] = "strict"

    @property
    def dataset(self) -> str:
        """The name of the data, for the results."""
        return self.source.name or str(self.source)

    @property
    def reading(self) -> dict[str, Any]:
        """How the data are read."""
        return {
            "split": self.split,
            "class_level": self.class_level,
            "skip_empty": self.skip_empty,
            "group_by": self.group_by,
        }

    def without_lists(self) -> None:
        """For protocols without episodes.

        Raises:
            InvalidInput: episodes are to be saved or loaded.
        """
        for option, value in (("save", self.save_episodes), ("load", self.load_episodes)):
            if value is not None:
                raise InvalidInput(f"{self.protocol} has no episodes: leave --{option}-episodes {value} out.")

    def without_head(self) -> None:
        """For protocols that judge the backbone alone.

        Raises:
            InvalidInput: a head is asked for.
        """
        if self.head != "prototypes":
            raise InvalidInput(
                f"{self.protocol} judges the backbone with classifiers of its own: leave --head {self.head} out."
            )
        if self.against is not None and self.against.rpartition(":")[2] in choices("heads"):
            raise InvalidInput(
                f"{self.protocol} judges backbones: --against {self.against} names a head; name a backbone."
            )
