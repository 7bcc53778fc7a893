"""iBOT's two losses, gradients and centres against the authors' code."""

from __future__ import annotations

import pytest
from golden_cases import cases

from fewsight.objectives.assignments import update_center
from fewsight.objectives.ibot import ibot_loss


@pytest.mark.parametrize("case", cases("ibot_loss"), ids=str)
def test_ibot_loss(case):
    params = case.params
    momentum = params.pop("momentum")
    student_cls, student_patches = (
        case.tensor("student_cls", grad=True),
        case.tensor("student_patches", grad=True),
    )
    fixed = {
        name: case.tensor(name)
        for name in ("teacher_cls", "teacher_patches", "mask", "center", "patch_center")
    }
    losses = ibot_loss(student_cls=student_cls, student_patches=student_patches, **fixed, **params)
    (losses.cls_loss + losses.patch_loss).backward()
    case.check(
        cls_loss=losses.cls_loss,
        patch_loss=losses.patch_loss,
        grad_student_cls=student_cls.grad,
        grad_student_patches=student_patches.grad,
        center_after=update_center(fixed["center"], fixed["teacher_cls"], momentum),
        patch_center_after=update_center(fixed["patch_center"], fixed["teacher_patches"], momentum),
    )
