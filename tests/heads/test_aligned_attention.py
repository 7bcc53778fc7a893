"""Tiles of aligned attention: what they hold, how the supports are ordered, and when nothing is recomputed."""

import pytest
import torch

from fewsight.heads import aligned_attention
from fewsight.heads.aligned_attention import ClassOrder, aligned_logits, class_order


def tensors(Q=3, P=4, S=5, M=6, Dk=4, Dv=4):
    generator = torch.Generator().manual_seed(0)
    shapes = (Q, P, Dk), (Q, P, Dv), (S, M, Dk), (S, M, Dv)
    return [
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes
    ]


def test_class_order_follows_ids_and_keeps_the_order_within_a_class():
    order = class_order(torch.tensor([9, -1, 9, 4, -1]))
    assert order.rows.tolist() == [1, 4, 3, 0, 2]
    assert order.counts == (2, 1, 2)


def test_an_image_may_stand_in_several_classes():
    inputs = tensors()
    both = aligned_logits(*inputs, ClassOrder(torch.tensor([0, 1, 1, 2]), (2, 2)))
    one = aligned_logits(*inputs, ClassOrder(torch.tensor([1, 2]), (2,)))
    torch.testing.assert_close(both[:, 1:], one, rtol=1e-12, atol=0)
    both.sum().backward()
    assert inputs[2].grad[1].abs().sum() > 0
    assert inputs[2].grad[3:].abs().sum() == 0


def test_no_tile_is_larger_than_the_bound(monkeypatch):
    """Scores of every tile, forward and backward, stay within a sixth of the bound unless one position exceeds it."""
    seen = []
    attend, softmax = torch.nn.functional.scaled_dot_product_attention, torch.softmax

    def watch_attention(q, k, v):
        seen.append(4 * q.shape[0] * q.shape[-2] * k.shape[-2])
        return attend(q, k, v)

    def watch_softmax(scores, dim, dtype):
        seen.append(4 * scores.numel())
        return softmax(scores, dim, dtype=dtype)

    monkeypatch.setattr(aligned_attention.F, "scaled_dot_product_attention", watch_attention)
    monkeypatch.setattr(aligned_attention.torch, "softmax", watch_softmax)
    inputs = tensors(Q=20, P=9, S=12, M=16, Dv=3)  # unequal widths: no graph is kept
    bound = 48 * 2**10  # bytes
    order = ClassOrder(torch.arange(12), (1, 1, 3, 1, 3, 3))
    aligned_logits(*inputs, order, memory_mib=bound / 2**20).sum().backward()
    assert max(seen) <= bound / 6
    assert len(seen) > 12  # it was cut, forward and backward


def test_classes_of_equal_size_share_a_tile(monkeypatch):
    calls = []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        aligned_attention.F,
        "scaled_dot_product_attention",
        lambda q, k, v: (calls.append(k.shape[0]), attend(q, k, v))[1],
    )
    aligned_logits(*tensors(S=7), ClassOrder(torch.arange(7), (1, 2, 1, 2, 1)))
    assert sorted(calls) == [2, 3]


@pytest.mark.parametrize(("widths", "fits"), [((4, 4), True), ((4, 3), False)])
def test_a_graph_is_kept_only_where_attention_is_fused_and_small(widths, fits):
    logits = aligned_logits(*tensors(Dk=widths[0], Dv=widths[1]), class_order(torch.tensor([0, 0, 1, 1, 1])))
    assert ("RecomputedLogits" not in type(logits.grad_fn).__name__) is fits
