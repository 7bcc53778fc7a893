"""MSN's terms, targets and gradients against the authors' code."""

from __future__ import annotations

import pytest
from golden_cases import cases

from fewsight.objectives.msn import msn_loss


@pytest.mark.parametrize("case", cases("msn_loss"), ids=str)
def test_msn_loss(case):
    anchors, targets, prototypes = (
        case.tensor(name, grad=True) for name in ("anchors", "targets", "prototypes")
    )
    losses = msn_loss(anchors, targets, prototypes, **case.params)
    weights = case.params["me_max_weight"], case.params["entropy_weight"]
    (losses.cross_entropy + weights[0] * losses.me_max + weights[1] * losses.entropy).backward()
    assert targets.grad is None
    assert not losses.targets.requires_grad
    case.check(**losses._asdict(), grad_anchors=anchors.grad, grad_prototypes=prototypes.grad)
