"""SwAV's loss and gradient, with and without a queue, against the authors' code."""

from __future__ import annotations

import pytest
from golden_cases import cases

from fewsight.objectives.swav import swav_loss


@pytest.mark.parametrize("case", cases("swav_loss"), ids=str)
def test_swav_loss(case):
    scores = case.tensor("scores", grad=True)
    queue = case.tensor("queue_scores") if case.has("queue_scores") else None
    loss = swav_loss(scores, queue_scores=queue, **case.params)
    loss.backward()
    case.check(loss=loss, grad_scores=scores.grad)
