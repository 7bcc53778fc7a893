"""Training-free correspondence against plain loops."""

from __future__ import annotations

import pytest
from golden_cases import GoldenCase, cases

from fewsight.heads.correspondence import cycle_consistency, foreground_margin, presence_score


@pytest.mark.parametrize("case", cases("correspondence"), ids=str)
def test_correspondence(case: GoldenCase) -> None:
    params = case.params
    fraction = params.pop("fraction")
    tensors = [case.tensor(name) for name in ("query", "support", "prior", "support_class")]
    margin = foreground_margin(*tensors, **params)
    cycle = cycle_consistency(*tensors, num_classes=params["num_classes"])
    case.check(margin=margin, presence=presence_score(margin, fraction=fraction), cycle=cycle)
