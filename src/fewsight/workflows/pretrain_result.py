"""What a run of `pretrain` gave, in values and in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fewsight.protocols.verdict import Verdict
from fewsight.training.loop import TrainingResult

__all__ = ["PretrainRun", "not_judged"]


@dataclass(frozen=True)
class PretrainRun:
    """What a run of `pretrain` gave.

    Attributes:
        folder: with `model/`, `metrics.jsonl`, `verdict.json` and `run.yaml`.
        result: of the loop.
        verdict: before and after on photos that the training did not see; None without labelled ones, or when
            interrupted.
        kept: which backbone is in `model/`; where that is the old one, the other is in `pretrained/`.
        photos: trained on, and held out.
        remarks: sentences that a person should read.
    """

    folder: Path
    result: TrainingResult
    verdict: Verdict | None
    kept: Literal["pretrained", "old"]
    photos: tuple[int, int]
    remarks: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json` and `verdict.json`."""
        return {
            "folder": str(self.folder),
            "finished": self.result.finished,
            "steps": self.result.steps,
            "photos": {"trained_on": self.photos[0], "held_out": self.photos[1]},
            "verdict": None if self.verdict is None else self.verdict.as_values(),
            "kept": self.kept if self.result.finished else None,
            "waiting_for_data": round(self.result.waiting, 4),
            "remarks": list(self.remarks),
        }

    def sentences(self) -> Iterator[str]:
        """The result in words."""
        if not self.result.finished:
            yield f"Interrupted at step {self.result.steps}. Go on with the same command and --resume."
            return
        yield (
            f"Trained for {self.result.steps} steps on {self.photos[0]} photos; "
            f"{100 * self.result.waiting:.0f} % of the time waiting for data."
        )
        yield from self.remarks
        model = self.folder / "model"
        if self.verdict is not None:
            yield self.verdict.sentence
        if self.kept == "old":
            yield (
                f"{model} holds the backbone as it was; the pretrained one is in {self.folder / 'pretrained'}, should "
                "you want it all the same."
            )
        else:
            yield f"{model} holds the pretrained backbone."
        yield f"Use it: fewsight predict SUPPORT PILE --backbone {model} --out RUN"


def not_judged(folder: Path, old: str) -> str:
    """What to do where nothing could be judged."""
    return (
        "Whether it became better was not judged: there are too few held-out photos with one label. Judge it: "
        f"fewsight evaluate LABELLED --backbone {folder / 'model'} --against {old}"
    )
