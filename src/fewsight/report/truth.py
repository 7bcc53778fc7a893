"""How right the answers were, where the truth is known: risk by coverage in all and by class, mix-ups, label sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fewsight.report.facts import RunFacts
from fewsight.report.page import Section, render
from fewsight.report.plots import RiskCoverage, curve_path
from fewsight.report.tables import NONE_OF_THESE
from fewsight.report.tally import Tally
from fewsight.report.wording import counted

__all__ = ["ClassRisk", "class_risks", "truth_section"]

MOST_MATRIX = 25  # classes of a confusion matrix that can still be read
MOST_MIX_UPS = 12
MOST_CURVES = 12  # classes with a curve of their own; the table has all
MOST_CLASSES = 400  # rows of a table by class


@dataclass(frozen=True)
class ClassRisk:
    """The curve of the answers that are class `name`, number `index`; `path` draws it in 160 x 80."""

    name: str
    index: int
    curve: RiskCoverage
    path: str


def class_risks(classes: Sequence[str], tally: Tally) -> list[ClassRisk]:
    """One for each class that was answered where the truth is known, the most answered first."""
    found = []
    for index, name in enumerate(classes):
        curve = tally.risks.curve(label=name, points=60)
        if curve is not None:
            xs, ys = (0.0, *curve.coverage), (curve.risk[0], *curve.risk)
            found.append(ClassRisk(name, index, curve, curve_path(xs, ys, width=160, height=80, top=1)))
    return sorted(found, key=lambda risk: (-risk.curve.answered, risk.index))


def truth_section(classes: Sequence[str], tally: Tally, facts: RunFacts) -> Iterator[Section]:
    """The section, if the truth of any answer is known."""
    table, curve = tally.confusion.table(classes), tally.risks.curve()
    if table is None or curve is None:
        return
    top = max(0.05, *curve.risk)
    by_class = class_risks(classes, tally)
    body = render(
        "truth.html",
        table=table if len(table.answers) <= MOST_MATRIX else None,
        most=max(max(row) for row in table.counts) or 1,
        mix_ups=table.mix_ups[:MOST_MIX_UPS],
        more_mix_ups=max(0, len(table.mix_ups) - MOST_MIX_UPS),
        class_index={name: index for index, name in enumerate(classes)},
        none=NONE_OF_THESE,
        curve=curve,
        path=curve_path((0, *curve.coverage), (curve.risk[0], *curve.risk), width=480, height=200, top=top),
        top=top,
        measured=facts.measured,
        curves=by_class[:MOST_CURVES] if len(by_class) > 1 else [],
        by_class=by_class[:MOST_CLASSES] if len(by_class) > 1 else [],
        more_classes=max(0, len(by_class) - MOST_CLASSES),
        sets=tally.sets.counts(classes)[:MOST_CLASSES],
        coverage=facts.coverage,
        own_threshold=frozenset(facts.own_threshold),
    )
    lead = f"For {counted(curve.answered, 'photo')} the right answer is known; here is how they compare."
    yield Section("truth", "How right it was", body, lead)
