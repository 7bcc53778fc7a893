"""How doubtful an answer is, and which answers a person should look at first."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Literal

from fewsight.predictions import Prediction

__all__ = ["CERTAINTIES", "Certainty", "certainty", "doubt", "doubtful_first", "doubts"]

Certainty = Literal["in doubt", "fairly sure", "sure"]
CERTAINTIES: tuple[Certainty, ...] = ("in doubt", "fairly sure", "sure")

# above the first an answer is in doubt, above the second only fairly sure
IN_DOUBT, FAIRLY_SURE = 0.6, 0.2


def doubt(row: Prediction) -> float:
    """One minus the lead of the best class over the second, in [0, 1]; 1 where there is no score.

    >>> doubt(Prediction("a.jpg", "ok", label="heron", score=0.75, runner_up="stork", runner_up_score=0.25))
    0.5
    """
    margin = row.margin
    if margin is None or margin != margin:
        return 1.0
    return min(1.0, max(0.0, 1.0 - margin))


def certainty(row: Prediction) -> Certainty:
    """The doubt in words: in doubt (over 0.6), fairly sure (over 0.2), sure."""
    level = doubt(row)
    return "in doubt" if level > IN_DOUBT else "fairly sure" if level > FAIRLY_SURE else "sure"


def doubts(rows: Sequence[Prediction]) -> dict[int, float]:
    """Doubt in [0, 1] of each answered or rejected row, by its index.

    Answered rows have their own `doubt`. Rejected rows have no second class to compare with: the one least unlike
    the support, hence nearest to being answered, gets 1, the one most unlike it gets 1 / how many there are.
    """
    levels: dict[int, float] = {}
    rejected: list[tuple[float, int]] = []
    for index, row in enumerate(rows):
        if row.answered:
            levels[index] = doubt(row)
        elif row.status == "rejected":
            rejected.append((row.novelty or 0.0, index))
    for rank, (_, index) in enumerate(sorted(rejected)):
        levels[index] = 1 - rank / len(rejected)
    return levels


def doubtful_first(levels: Mapping[int, float], *, limit: int | None = None) -> list[int]:
    """Indices from the most to the least doubtful, at most `limit`; equal doubt keeps the order of the rows.

    >>> doubtful_first({0: 0.1, 1: 0.9, 2: 0.9})
    [1, 2, 0]
    """
    return heapq.nsmallest(
        len(levels) if limit is None else limit, levels, key=lambda index: (-levels[index], index)
    )
