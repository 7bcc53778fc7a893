"""What a verb tells its report beside the rows: how good it will be, what was run, whose data and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Estimate", "Licence", "RunFacts", "SupportPhoto"]


@dataclass(frozen=True)
class SupportPhoto:
    """A labelled photo as the report shows it: file, its class names, and a remark where there is one."""

    file: str
    labels: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1] with its 95 % interval, from `n` photos."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Licence:
    """Under which terms something stands that the answers rest on."""

    what: str
    terms: str
    note: str = ""


@dataclass(frozen=True)
class RunFacts:
    """What was run, in words.

    Attributes:
        title: heading of the page.
        expected: leave-one-out accuracy of the support; None where it could not be judged.
        expected_note: why it was not judged, or how it was.
        expected_by_group: the same for each group (folder, burst).
        measured: accuracy on the photos whose truth is known.
        coverage: what label sets promise; None where none were asked for.
        own_threshold: classes whose label sets are calibrated by their own photos; the others share one threshold.
        remarks: sentences that a person must read first (duplicates between classes, a halved batch).
        correct_command: the command that runs again with a corrected `predictions.csv` as support.
        command: the command that was run.
        settings: name and value, in the order to be shown.
        licences: of weights and data.
    """

    title: str = "What is in the photos"
    expected: Estimate | None = None
    expected_note: str = ""
    expected_by_group: Mapping[str, Estimate] = field(default_factory=dict)
    measured: Estimate | None = None
    coverage: float | None = None
    own_threshold: Sequence[str] = ()
    remarks: Sequence[str] = ()
    correct_command: str = ""
    command: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    licences: Sequence[Licence] = ()
