"""What `fewsight evaluate` says in sentences: what was left out, and whether more photos would help."""

from __future__ import annotations

from collections.abc import Sequence

from fewsight.evaluation.intervals import Interval
from fewsight.protocols.episodes import EpisodeResult, compare_results
from fewsight.workflows.evaluation_task import EvaluationTask

__all__ = ["left_out_words", "more_photos"]

MATTERS = 0.01  # a gain that a person would take a photo for


def left_out_words(found: EpisodeResult, task: EvaluationTask, part: str) -> list[str]:
    """Which queries were not judged, and why; the groupings are duplicates and groups."""
    asked = int(found.confusion.sum()) + sum(found.left_out)
    reasons = ("a duplicate of theirs", f"a photo of their group (--group-by {task.group_by})")
    return [
        f"{part}: {count} of {asked} queries left out, {reason} is among the supports."
        for count, reason in zip(found.left_out, reasons, strict=False)
        if count
    ]


def more_photos(shots: Sequence[int], found: Sequence[EpisodeResult]) -> str:
    """Whether more photos a class would help, from the last step of a curve over shots."""
    step = compare_results(found[-1], found[-2], ("more", "fewer")).difference
    before, after = shots[-2], shots[-1]
    words = (
        f"Would more photos help? From {before} to {after} a class the accuracy goes from "
        f"{_percent(found[-2].accuracy)} to {_percent(found[-1].accuracy)}"
    )
    if step.n < 2:
        return f"{words}: too few episodes to say."
    gain = f"{100 * step.mean:+.1f} points, 95 % interval {100 * step.low:+.1f} to {100 * step.high:+.1f}"
    if step.low > MATTERS:
        return f"{words} ({gain}): yes, and more than {after} would probably help further."
    if step.high < MATTERS:
        return f"{words} ({gain}): hardly; better photos, or another backbone, would help more."
    return f"{words} ({gain}): a little at most."


def _percent(interval: Interval) -> str:
    return f"{100 * interval.mean:.1f} %"
