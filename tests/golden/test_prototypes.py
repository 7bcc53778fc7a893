"""Golden vectors of the class-mean head and of its leave-one-out form."""

import numpy
import pytest
import torch
from golden_cases import cases
from torch.nn.functional import cross_entropy

from fewsight.heads.prototypes import leave_one_out_logits, prototype_logits


@pytest.mark.parametrize("case", cases("prototypes"), ids=str)
def test_prototypes(case):
    queries, supports = case.tensor("queries", grad=True), case.tensor("supports", grad=True)
    logits = prototype_logits(queries, supports, case.tensor("labels"), **case.params)
    loss = cross_entropy(logits, case.tensor("query_targets"))
    loss.backward()
    case.check(logits=logits, loss=loss, grad_queries=queries.grad, grad_supports=supports.grad)


@pytest.mark.parametrize("case", cases("prototypes"), ids=str)
def test_single_precision_stays_within_a_percent_of_the_largest(case):
    logits = prototype_logits(
        case.tensor("queries").float(), case.tensor("supports").float(), case.tensor("labels"), **case.params
    )
    assert logits.dtype == torch.float32
    expected = case.outputs["logits"]
    assert numpy.abs(logits.numpy() - expected).max() <= 0.01 * numpy.abs(expected).max()


@pytest.mark.parametrize("case", cases("nearest_mean_loo"), ids=str)
def test_leave_one_out(case):
    case.check(logits=leave_one_out_logits(case.tensor("features"), case.tensor("labels"), **case.params))
