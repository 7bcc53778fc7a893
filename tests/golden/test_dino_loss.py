"""DINO's loss, gradient and centre over two steps against the authors' code."""

from __future__ import annotations

import pytest
from golden_cases import cases

from fewsight.objectives.assignments import update_center
from fewsight.objectives.dino import dino_loss


@pytest.mark.parametrize("case", cases("dino_loss"), ids=str)
def test_dino_loss(case):
    params = case.params
    momentum = params.pop("momentum")
    center = case.tensor("center")
    results = {}
    for step in (1, 2):
        student, teacher = (
            case.tensor(f"student_{step}", grad=True),
            case.tensor(f"teacher_{step}", grad=True),
        )
        loss = dino_loss(student, teacher, center, **params)
        loss.backward()
        assert teacher.grad is None
        center = update_center(center, teacher.detach(), momentum)
        results |= {f"loss_{step}": loss, f"grad_student_{step}": student.grad, f"center_{step}": center}
    case.check(**results)
