"""Everything that the report of `predict` counts, in one pass over the rows, which may stay on the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from fewsight.predictions import Prediction
from fewsight.report.doubt import Doubts, certainty
from fewsight.report.plots import RiskTally
from fewsight.report.tables import ClassTally, ConfusionTally, SetTally, TroubleTally, correct

__all__ = ["Tally"]


class Tally:
    """Counts of a run.

    Attributes:
        statuses: rows by status.
        answered, in_doubt: rows with an answer, and those of them in doubt.
        known, right: answers whose truth is known, and those of them that are right.
        doubts, classes, confusion, risks, sets, troubles: what each section of the page is made of.
    """

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.answered = self.in_doubt = self.known = self.right = 0
        self.doubts, self.classes, self.confusion = Doubts(), ClassTally(), ConfusionTally()
        self.risks, self.sets, self.troubles = RiskTally(), SetTally(), TroubleTally()

    @classmethod
    def of(cls, rows: Iterable[Prediction]) -> Tally:
        """The counts of all rows."""
        tally = cls()
        for row in rows:
            tally.add(row)
        return tally

    def add(self, row: Prediction) -> None:
        """The next row of the run."""
        self.statuses[row.status] += 1
        if row.answered:
            self.answered += 1
            self.in_doubt += certainty(row) == "in doubt"
        is_right = correct(row)
        if is_right is not None:
            self.known += 1
            self.right += is_right
        for part in (self.doubts, self.classes, self.confusion, self.risks, self.sets, self.troubles):
            part.add(row)
