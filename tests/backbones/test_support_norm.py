"""Batch norm on support moments: torch's own batch norm as oracle, who sees whom, running moments; errors."""

import pytest
import torch
import torch.nn.functional as F

from fewsight.backbones.support_norm import SupportBatchNorm, support_batch_norm
from fewsight.errors import InvalidInput

C = 3


def given(S=4, Q=2):
    torch.manual_seed(0)
    maps = {"supports": torch.randn(S, C, 2, 3) * 2 + 5, "queries": torch.randn(Q, C, 4, 2)}
    vectors = {name: torch.rand(C) + 0.5 for name in ("weight", "bias", "running_mean", "running_var")}
    return {name: tensor.double() for name, tensor in (maps | vectors).items()}


def run(arguments, **settings):
    return support_batch_norm(**arguments, **{"training": True, "use_running_moments": True, **settings})


def test_supports_are_normalised_as_by_torch_and_queries_by_the_supports():
    arguments = given()
    result = run(arguments)
    plain = F.batch_norm(
        arguments["supports"], None, None, arguments["weight"], arguments["bias"], training=True
    )
    torch.testing.assert_close(result.supports, plain)
    mean, var = arguments["supports"].mean((0, 2, 3)), arguments["supports"].var((0, 2, 3), correction=0)
    queries = F.batch_norm(arguments["queries"], mean, var, arguments["weight"], arguments["bias"])
    torch.testing.assert_close(result.queries, queries)
    torch.testing.assert_close(result.running_mean, 0.9 * arguments["running_mean"] + 0.1 * mean)
    torch.testing.assert_close(result.running_var, 0.9 * arguments["running_var"] + 0.1 * var)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("use_running_moments", [True, False])
def test_a_query_never_reaches_another_image(training, use_running_moments):
    arguments = given()
    settings = {"training": training, "use_running_moments": use_running_moments}
    result = run(arguments, **settings)
    arguments["queries"] = arguments["queries"].clone()
    arguments["queries"][0] += 10
    other = run(arguments, **settings)
    assert torch.equal(other.supports, result.supports)
    assert torch.equal(other.queries[1], result.queries[1])
    assert torch.equal(other.running_var, result.running_var)


def test_inputs_are_not_changed_and_running_moments_only_when_they_serve():
    arguments = given()
    before = {name: tensor.clone() for name, tensor in arguments.items()}
    run(arguments)
    for settings in ({"use_running_moments": False}, {"training": False}):
        result = run(arguments, **settings)
        assert torch.equal(result.running_mean, before["running_mean"])
    assert all(torch.equal(arguments[name], before[name]) for name in before)


def test_a_large_offset_does_not_cancel_in_single_precision():
    arguments = {name: tensor.float() for name, tensor in given(S=50).items()}
    arguments["supports"] = torch.randn(50, C, 8, 8) + 1000
    spread = run(arguments).supports.std((0, 2, 3)) / arguments["weight"]
    assert (spread - 1).abs().max() < 1e-2  # E[x^2] - E[x]^2 would be off by a third


def test_module_updates_once_a_pass_and_serves_running_moments_at_test():
    norm = SupportBatchNorm(C)
    maps = torch.randn(6, C, 2, 2) + 3
    norm.train()(maps, 4)
    expected = 0.1 * maps[:4].mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, expected)
    norm.eval()
    alone, together = norm(maps[5:]), norm(maps, 4)[5:]
    torch.testing.assert_close(alone, together)
    torch.testing.assert_close(norm.running_mean, expected)


def test_errors_name_the_argument():
    for changes, named in (
        ({"weight": torch.zeros(4)}, "weight"),
        ({"queries": torch.zeros(1, 4, 2, 2)}, "queries"),
        ({"supports": torch.zeros(0, C, 2, 2)}, "supports"),
    ):
        with pytest.raises(InvalidInput, match=named):
            run(given() | changes)
    for settings in ({"decay": 1.5}, {"epsilon": -1.0}):
        with pytest.raises(InvalidInput, match=next(iter(settings))):
            run(given(), **settings)
