"""Gradient caching: the plain graph's gradients, with dropout, heads, scales and chunks; errors."""

import pytest
import torch
from torch import nn

from fewsight.errors import InvalidInput
from fewsight.gradients.cache import cached_backward


def parts(dropout=0.0):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3)).double()
    head = nn.Linear(3, 2).double()
    inputs = torch.randn(7, 5, dtype=torch.float64)
    return encoder, head, inputs


def coupled(head):
    """A loss that joins all representations."""
    return lambda z: torch.logsumexp(head(z) @ head(z).T, 1).sum() / len(z)


def gradients(*modules):
    return [parameter.grad.clone() for module in modules for parameter in module.parameters()]


@pytest.mark.parametrize("chunk", [1, 3, 7, 50])
def test_gradients_of_encoder_and_head_are_those_of_the_plain_graph(chunk):
    encoder, head, inputs = parts()
    plain = coupled(head)(encoder(inputs))
    (plain * 0.5).backward()
    expected = gradients(encoder, head)
    encoder.zero_grad(), head.zero_grad()
    value = cached_backward(encoder, coupled(head), inputs, chunk=chunk, scale=0.5)
    torch.testing.assert_close(value, plain.detach(), rtol=1e-12, atol=0)
    for ours, theirs in zip(gradients(encoder, head), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_dropout_is_repeated_and_the_generator_ends_where_one_pass_would():
    encoder, head, inputs = parts(dropout=0.5)
    torch.manual_seed(3)
    encoded = torch.cat([encoder(part) for part in inputs.split(2)])  # the masks that chunks of 2 draw
    after = torch.rand(1)
    coupled(head)(encoded).backward()
    expected = gradients(encoder, head)
    encoder.zero_grad(), head.zero_grad()
    torch.manual_seed(3)
    cached_backward(encoder, coupled(head), inputs, chunk=2)
    assert torch.equal(torch.rand(1), after)
    for ours, theirs in zip(gradients(encoder, head), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_gradients_add_up_and_inputs_get_none():
    encoder, head, inputs = parts()
    inputs.requires_grad_()
    cached_backward(encoder, coupled(head), inputs, chunk=2)
    once = gradients(encoder)
    cached_backward(encoder, coupled(head), inputs, chunk=4)
    for twice, single in zip(gradients(encoder), once, strict=True):
        torch.testing.assert_close(twice, 2 * single, rtol=1e-9, atol=1e-12)
    assert inputs.grad is None


def test_a_frozen_encoder_still_trains_the_head():
    encoder, head, inputs = parts()
    encoder.requires_grad_(False)
    cached_backward(encoder, coupled(head), inputs, chunk=2)
    assert head.weight.grad.abs().max() > 0


def test_the_largest_graph_does_not_grow_with_the_inputs():
    encoder, _, _ = parts()
    for count in (8, 64):
        graph_rows = []

        def encode(x, graph_rows=graph_rows):
            graph_rows.extend([len(x)] if torch.is_grad_enabled() else [])
            return encoder(x)

        cached_backward(encode, lambda z: z.square().sum(), torch.ones(count, 5).double(), chunk=4)
        assert graph_rows == [4] * (count // 4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"chunk": 0}, "chunk"), ({"inputs": torch.zeros(0, 5)}, "inputs"), ({"loss": lambda z: z}, "loss")],
)
def test_errors_name_the_argument(changes, named):
    encoder, head, inputs = parts()
    arguments = {"encode": encoder, "loss": coupled(head), "inputs": inputs, "chunk": 2, **changes}
    with pytest.raises(InvalidInput, match=named):
        cached_backward(**arguments)
