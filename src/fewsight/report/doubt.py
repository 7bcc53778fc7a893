"""How doubtful an answer is, and which answers a person should look at first."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Literal

from fewsight.predictions import Prediction

__all__ = ["CERTAINTIES", "Certainty", "certainty", "doubt", "doubtful_first"]

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


def doubtful_first(rows: Sequence[Prediction], *, limit: int | None = None) -> list[int]:
    """Indices of the answered and the rejected rows, the most doubtful first, at most `limit` of them.

    Equal doubt keeps the order of the rows.
    """
    judged = ((-doubt(row), index) for index, row in enumerate(rows) if is_judged(row))
    ordered = sorted(judged) if limit is None else heapq.nsmallest(limit, judged)
    return [index for _, index in ordered]


def is_judged(row: Prediction) -> bool:
    """Whether a head has looked at the photo: it has a label, or was found to be none of the classes."""
    return row.answered or row.status == "rejected"
