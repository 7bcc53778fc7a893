"""The joined framework: MC-SSL's preset against its code, our variant against its formulas."""

from __future__ import annotations

import pytest
from golden_cases import cases

from fewsight.objectives.assignments import update_center
from fewsight.objectives.masked_clustering import masked_clustering_loss


@pytest.mark.parametrize("case", cases("masked_clustering"), ids=str)
def test_masked_clustering_loss(case):
    params = case.params
    momentum = params.pop("momentum")
    trained = {
        name: case.tensor(name, grad=True) for name in ("student_cls", "student_patches", "reconstruction")
    }
    fixed = {name: case.tensor(name) for name in case.inputs if name not in trained}
    losses = masked_clustering_loss(**trained, **fixed, **params)
    sum(losses).backward()
    case.check(
        **losses._asdict(),
        **{f"grad_{name}": tensor.grad for name, tensor in trained.items()},
        center_after=update_center(fixed["center"], fixed["teacher_cls"], momentum),
        patch_center_after=update_center(fixed["patch_center"], fixed["teacher_patches"], momentum),
    )
