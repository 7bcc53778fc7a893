"""SimCLR's and MoCo-v3's losses with gradients against independent forms and the authors' code."""

from __future__ import annotations

import pytest
from golden_cases import cases

from fewsight.objectives.moco_v3 import moco_v3_loss
from fewsight.objectives.simclr import nt_xent


@pytest.mark.parametrize("case", cases("nt_xent"), ids=str)
def test_nt_xent(case):
    z1, z2 = case.tensor("z1", grad=True), case.tensor("z2", grad=True)
    loss = nt_xent(z1, z2, **case.params)
    loss.backward()
    case.check(loss=loss, grad_z1=z1.grad, grad_z2=z2.grad)


@pytest.mark.parametrize("case", cases("moco_v3_loss"), ids=str)
def test_moco_v3_loss(case):
    q1, q2, k1, k2 = (case.tensor(name, grad=True) for name in ("q1", "q2", "k1", "k2"))
    loss = moco_v3_loss(q1, q2, k1, k2, **case.params)
    loss.backward()
    assert k1.grad is None
    assert k2.grad is None
    case.check(loss=loss, grad_q1=q1.grad, grad_q2=q2.grad)
