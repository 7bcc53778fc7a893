"""Assignments, Sinkhorn, mean-entropy maximisation and KoLeo against the authors' code."""

from __future__ import annotations

import pytest
import torch
from golden_cases import cases

from fewsight.objectives.assignments import assign, koleo, me_max, sinkhorn


@pytest.mark.parametrize("case", cases("sinkhorn"), ids=str)
def test_sinkhorn(case):
    case.check(result=sinkhorn(case.tensor("scores"), **case.params))


@pytest.mark.parametrize("case", cases("sinkhorn"), ids=str)
def test_sinkhorn_in_float32(case):
    # float32 holds scores / temperature to 6e-8 of their magnitude, which exp turns into a relative error.
    scores = case.tensor("scores")
    result = sinkhorn(scores.float(), **case.params)
    magnitude = float(scores[scores.isfinite()].abs().max()) / case.params["temperature"]
    torch.testing.assert_close(
        result.double(),
        torch.from_numpy(case.outputs["result"]),
        rtol=1e-5 + 1e-6 * magnitude,
        atol=1e-6 + 1e-7 * magnitude,
    )


@pytest.mark.parametrize("case", cases("assignments"), ids=str)
def test_assign(case):
    from fewsight.evaluation.geometry import assignment_entropies

    center = case.tensor("center") if case.has("center") else None
    result = assign(case.tensor("scores"), center=center, **case.params)
    entropy_of_mean, mean_entropy = assignment_entropies(result)
    case.check(result=result, entropy_of_mean=entropy_of_mean, mean_entropy=mean_entropy)


@pytest.mark.parametrize("case", cases("me_max"), ids=str)
def test_me_max(case):
    probabilities = case.tensor("probabilities", grad=True)
    result = me_max(probabilities)
    result.backward()
    assert probabilities.grad.isfinite().all()
    case.check(result=result, grad_probabilities=probabilities.grad)


@pytest.mark.parametrize("case", cases("koleo"), ids=str)
def test_koleo(case):
    features = case.tensor("features", grad=True)
    loss = koleo(features)
    loss.backward()
    assert features.grad.isfinite().all()
    case.check(loss=loss, grad_features=features.grad)
