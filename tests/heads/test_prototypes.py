"""The class-mean head: plain oracles, shift and scale, leave-one-out by brute force, classes added and removed."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from fewsight.backbones.features import Features
from fewsight.errors import InvalidInput
from fewsight.heads.head import Support, membership_from_labels
from fewsight.heads.prototypes import Prototypes, leave_one_out_logits, prototype_logits

LABELS = torch.tensor([4, 4, 4, 9, 9, 30])


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def support_of(features: torch.Tensor, labels: torch.Tensor) -> Support:
    names = tuple(str(label) for label in labels.unique().tolist())
    return Support(Features(cls=features), membership_from_labels(labels), names)


def plain_logits(queries, supports, labels, metric, epsilon=1e-3):
    rows = []
    for query in queries:
        row = []
        for label in sorted(set(labels.tolist())):
            mean = supports[labels == label].mean(0)
            if metric == "euclidean":
                row.append(-((query - mean) ** 2).sum())
            else:
                lengths = [max(float((v * v).sum()), epsilon) ** 0.5 for v in (query, mean)]
                row.append((query @ mean) / (lengths[0] * lengths[1]))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_is_the_plain_form(metric):
    queries, supports = drawn(7, 5, seed=1), drawn(6, 5, seed=2)
    expected = 3 * plain_logits(queries, supports, LABELS, metric)
    result = prototype_logits(queries, supports, LABELS, metric=metric, scale=3)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_order_of_supports_does_not_matter(metric):
    queries, supports, order = drawn(3, 5, seed=1), drawn(6, 5, seed=2), torch.tensor([5, 2, 0, 4, 1, 3])
    first = prototype_logits(queries, supports, LABELS, metric=metric)
    second = prototype_logits(queries, supports[order], LABELS[order], metric=metric)
    torch.testing.assert_close(first, second)


def test_a_common_offset_does_not_spoil_single_precision():
    queries, supports = drawn(7, 64, seed=1).float(), drawn(6, 64, seed=2).float()
    near = prototype_logits(queries, supports, LABELS)
    far = prototype_logits(queries + 4096, supports + 4096, LABELS)
    # 4096 leaves 11 bits of fraction: each difference is right to 2^-12, the sum of 64 squares to a per cent.
    torch.testing.assert_close(far, near, rtol=0.01, atol=0.1)


def test_a_wide_range_of_lengths_stays_finite():
    for size in (1e-30, 1e30):
        logits = leave_one_out_logits(
            drawn(6, 5, dtype=torch.float32) * size, LABELS, metric="cosine", scale=1
        )
        torch.testing.assert_close(
            logits, leave_one_out_logits(drawn(6, 5, dtype=torch.float32), LABELS, metric="cosine", scale=1)
        )


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_gradients(metric):
    queries, supports = drawn(3, 4, seed=1).requires_grad_(), drawn(6, 4, seed=2).requires_grad_()
    assert gradcheck(lambda q, s: prototype_logits(q, s, LABELS, metric=metric), (queries, supports))


def test_dtypes_and_inputs_are_kept():
    for dtype, expected in ((torch.float32,) * 2, (torch.float64,) * 2, (torch.float16, torch.float32)):
        supports = drawn(6, 5).to(dtype)
        before = supports.clone()
        assert prototype_logits(supports, supports, LABELS).dtype == expected
        assert leave_one_out_logits(supports, LABELS, scale=1.0).dtype == expected
        assert torch.equal(before, supports)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"queries": torch.zeros(2, 3)}, "supports"),
        ({"labels": torch.zeros(5, dtype=torch.long)}, "labels"),
        ({"labels": torch.zeros(6)}, "labels"),
        ({"metric": "manhattan"}, "metric"),
        ({"scale": 0.0}, "scale"),
        ({"scale": math.nan}, "scale"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"queries": torch.zeros(2, 5, dtype=torch.long)}, "queries"),
    ],
)
def test_wrong_input_is_named(change, named):
    arguments = {"queries": torch.zeros(2, 5), "supports": torch.zeros(6, 5), "labels": LABELS} | change
    with pytest.raises(InvalidInput, match=named):
        prototype_logits(**arguments)


def test_no_support_is_an_error():
    with pytest.raises(InvalidInput, match="labels"):
        prototype_logits(torch.zeros(2, 5), torch.zeros(0, 5), torch.zeros(0, dtype=torch.long))


def test_no_query_is_no_row():
    assert prototype_logits(torch.zeros(0, 5), torch.zeros(6, 5), LABELS).shape == (0, 3)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_leave_one_out_is_brute_force(metric):
    features = drawn(6, 5)
    result = leave_one_out_logits(features, LABELS, metric=metric, scale=2.0)
    for i in range(6):
        others = torch.arange(6) != i
        expected = 2 * plain_logits(features[[i]], features[others], LABELS[others], metric, epsilon=0)[0]
        scored = [k for k, label in enumerate((4, 9, 30)) if label in LABELS[others]]
        torch.testing.assert_close(result[i, scored], expected)
        assert result[i].isneginf().sum() == 3 - len(scored)


def test_a_mean_that_cancels_has_cosine_zero():
    # Without the third sample the mean of class 0 is the zero vector, not the rounding noise of its sum.
    features = torch.tensor([[0.1, 0.7], [-0.1, -0.7], [0.3, 0.2], [1.0, 0.0]], dtype=torch.float64)
    logits = leave_one_out_logits(features, torch.tensor([0, 0, 0, 1]), metric="cosine", scale=1.0)
    assert logits[2, 0] == 0


@pytest.mark.parametrize("settings", [{}, {"centring": 1.0}, {"centring": 0.0}, {"metric": "euclidean"}])
def test_leave_one_out_of_the_head_is_conditioning_without_each(settings):
    head, support = Prototypes(**settings), support_of(drawn(6, 5), LABELS)
    slow = super(Prototypes, head).leave_one_out(support)
    torch.testing.assert_close(head.leave_one_out(support).float(), slow, rtol=1e-5, atol=1e-6)


def test_leave_one_out_with_several_labels_a_photo():
    membership = torch.tensor([[1, 0], [1, 1], [0, 1], [1, 1], [0, 1]], dtype=torch.bool)
    support = Support(Features(cls=drawn(5, 4)), membership, ("a", "b"))
    head = Prototypes()
    torch.testing.assert_close(
        head.leave_one_out(support).float(),
        super(Prototypes, head).leave_one_out(support),
        rtol=1e-5,
        atol=1e-6,
    )


def test_one_class_and_one_photo_are_legal():
    support = support_of(drawn(1, 5), torch.tensor([3]))
    head = Prototypes()
    assert torch.isfinite(head.condition(support).scores(Features(cls=drawn(2, 5)))).all()
    assert head.leave_one_out(support).isneginf().all()


def test_equal_supports_give_finite_scores():
    support = support_of(torch.ones(4, 5), torch.tensor([0, 0, 1, 1]))
    for centring in (0.0, 0.7, 1.0):
        head = Prototypes(centring=centring)
        assert torch.isfinite(head.condition(support).scores(Features(cls=torch.ones(2, 5)))).all()
        assert torch.isfinite(head.leave_one_out(support)).all()


def test_centring_changes_nothing_for_the_distance():
    support, queries = support_of(drawn(6, 5), LABELS), Features(cls=drawn(4, 5, seed=3))
    scores = [
        Prototypes(metric="euclidean", centring=share).condition(support).scores(queries) for share in (0, 1)
    ]
    torch.testing.assert_close(*scores)


@pytest.mark.parametrize(
    "arguments", [{"centring": 1.5}, {"scale": -1}, {"metric": "l1"}, {"pooling": "max"}]
)
def test_wrong_settings_are_named(arguments):
    with pytest.raises(InvalidInput, match=next(iter(arguments))):
        Prototypes(**arguments)
