"""SimMIM's loss and gradient against the authors' code."""

from __future__ import annotations

import pytest
from golden_cases import cases

from fewsight.objectives.simmim import simmim_loss


@pytest.mark.parametrize("case", cases("simmim_loss"), ids=str)
def test_simmim_loss(case):
    reconstruction = case.tensor("reconstruction", grad=True)
    loss = simmim_loss(case.tensor("images"), reconstruction, case.tensor("mask"), **case.params)
    loss.backward()
    case.check(loss=loss, grad_reconstruction=reconstruction.grad)
