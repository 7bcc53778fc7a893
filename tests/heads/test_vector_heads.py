"""What holds for every head that compares one vector an image."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from fewsight.backbones.features import Features
from fewsight.errors import InvalidInput
from fewsight.heads.head import Conditioned, Head, Support, membership_from_labels
from fewsight.heads.logistic import Logistic, logistic_regression
from fewsight.heads.matching import Matching
from fewsight.heads.neighbours import Neighbours, class_votes, knn_probabilities
from fewsight.heads.prototypes import Prototypes

HEADS = [Prototypes(), Neighbours(k=3), Matching(), Logistic()]
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def support_of(features: torch.Tensor, labels: torch.Tensor) -> Support:
    return Support(
        Features(cls=features), membership_from_labels(labels), tuple("abcdef"[k] for k in labels.unique())
    )


@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
class TestEveryHead:
    def test_conditioned_is_one(self, head):
        assert isinstance(head.condition(support_of(drawn(6, 5), LABELS)), Conditioned)

    def test_its_own_supports_are_recognised(self, head):
        features = normalize(drawn(6, 40))
        scores = head.condition(support_of(features, LABELS)).scores(Features(cls=features))
        assert torch.equal(scores.argmax(1), LABELS)

    def test_state_restores_it(self, head):
        conditioned = head.condition(support_of(drawn(6, 5), LABELS))
        restored = type(head)(**head.settings()).restore(conditioned.names, conditioned.state())
        queries = Features(cls=drawn(4, 5, seed=1))
        assert torch.equal(conditioned.scores(queries), restored.scores(queries))

    def test_adding_a_class_is_conditioning_with_it(self, head):
        features, queries = drawn(6, 5), Features(cls=drawn(4, 5, seed=1))
        whole = head.condition(support_of(features, LABELS))
        part = head.condition(support_of(features[:5], LABELS[:5])).with_class(
            "c", Features(cls=features[5:])
        )
        assert part.names == whole.names
        torch.testing.assert_close(part.scores(queries), whole.scores(queries))
        torch.testing.assert_close(
            whole.without_class("a").scores(queries),
            head.condition(support_of(features[3:], LABELS[3:])).scores(queries),
        )

    def test_a_class_is_added_and_removed_once(self, head):
        conditioned = head.condition(support_of(drawn(6, 5), LABELS))
        with pytest.raises(InvalidInput, match="already"):
            conditioned.with_class("a", Features(cls=drawn(1, 5)))
        with pytest.raises(InvalidInput, match="no photo"):
            conditioned.with_class("z", Features(cls=drawn(0, 5)))
        with pytest.raises(InvalidInput, match="no class"):
            conditioned.without_class("z")
        with pytest.raises(InvalidInput, match="only class"):
            conditioned.without_class("a").without_class("b").without_class("c")

    def test_leave_one_out_is_conditioning_without_each(self, head):
        support = support_of(drawn(6, 5), LABELS)
        slow = Head.leave_one_out(head, support)
        torch.testing.assert_close(head.leave_one_out(support).float(), slow, rtol=1e-4, atol=1e-5)

    def test_several_labels_a_photo(self, head):
        membership = torch.tensor([[1, 0], [1, 1], [0, 1], [1, 1], [0, 1]], dtype=torch.bool)
        support = Support(Features(cls=drawn(5, 8)), membership, ("a", "b"))
        scores = head.condition(support).scores(Features(cls=drawn(3, 8, seed=2)))
        assert scores.shape == (3, 2)
        assert torch.isfinite(scores).all()
        assert torch.isfinite(head.leave_one_out(support)).all()

    def test_no_query_and_one_class(self, head):
        conditioned = head.condition(support_of(drawn(2, 5), torch.tensor([1, 1])))
        assert conditioned.scores(Features(cls=drawn(0, 5))).shape == (0, 1)
        assert torch.isfinite(conditioned.scores(Features(cls=drawn(3, 5)))).all()

    def test_other_width_is_an_error(self, head):
        with pytest.raises(InvalidInput, match="queries"):
            head.condition(support_of(drawn(6, 5), LABELS)).scores(Features(cls=drawn(2, 4)))

    def test_a_damaged_state_is_an_error(self, head):
        state = head.condition(support_of(drawn(6, 5), LABELS)).state()
        with pytest.raises(InvalidInput, match="membership"):
            head.restore(("a", "b"), state)
        with pytest.raises(InvalidInput, match="vectors"):
            head.restore(("a", "b", "c"), {"membership": state["membership"]})


def test_votes_are_the_plain_form():
    queries, train = normalize(drawn(4, 6), dim=1), normalize(drawn(9, 6, seed=1), dim=1)
    labels = torch.tensor([0, 3, 1, 1, 0, 3, 3, 0, 1])
    result = knn_probabilities(queries, train, labels, 4, 0.1, 5)
    for query, row in zip(queries, result, strict=True):
        nearest = sorted(range(9), key=lambda j: -float(query @ train[j]))[:4]
        votes = [
            sum(math.exp(float(query @ train[j]) / 0.1) for j in nearest if labels[j] == c) for c in range(5)
        ]
        torch.testing.assert_close(row, torch.tensor(votes, dtype=row.dtype) / sum(votes))


def test_matching_is_attention_summed_per_class():
    features, queries = drawn(6, 5), drawn(4, 5, seed=1)
    attention = torch.softmax(normalize(queries) @ normalize(features).T / 0.2, dim=1)
    expected = attention @ membership_from_labels(LABELS).double()
    scores = Matching(temperature=0.2).condition(support_of(features, LABELS)).scores(Features(cls=queries))
    torch.testing.assert_close(torch.softmax(scores / 0.2, dim=1), expected)


def test_a_class_without_a_vote_keeps_the_order_of_its_nearest():
    similarity = torch.tensor([[0.9, 0.8, 0.3, 0.5]])
    membership = membership_from_labels(torch.tensor([0, 0, 1, 2]))
    scores = class_votes(similarity, membership, k=2, temperature=0.1)[0]
    assert scores[0] > 0.9
    torch.testing.assert_close(scores[1:], torch.tensor([0.3, 0.5]))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"k": 0}, "k"), ({"temperature": 0.0}, "temperature"), ({"num_classes": 2}, "train_labels")],
)
def test_wrong_votes_are_named(change, named):
    arguments = {
        "queries": drawn(2, 3),
        "train_features": drawn(3, 3),
        "train_labels": torch.tensor([0, 1, 2]),
    }
    with pytest.raises(InvalidInput, match=named):
        knn_probabilities(**arguments, **change)


def test_logistic_regression_is_where_the_gradient_vanishes():
    features, labels = drawn(12, 5), torch.arange(12) % 3
    weights = logistic_regression(features, labels, features, 0.3).weights.requires_grad_()
    loss = torch.nn.functional.cross_entropy(features @ weights.T, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss + 0.15 * weights.square().sum(), weights)
    assert gradient.abs().max() < 1e-7  # converged far below any effect on a probability
    torch.testing.assert_close(weights.sum(0), torch.zeros(5, dtype=torch.float64), atol=1e-9, rtol=0)


def test_more_features_than_samples_changes_nothing():
    wide = drawn(6, 30)
    square = torch.cat(
        [wide, torch.zeros(40, 30, dtype=torch.float64)]
    )  # zero rows add a constant to the loss
    labels = torch.cat([LABELS, torch.zeros(40, dtype=torch.long)])
    narrow = logistic_regression(wide, LABELS, wide, 0.1)
    tall = logistic_regression(square, labels, wide, 0.1)
    torch.testing.assert_close(narrow.weights, tall.weights, rtol=1e-6, atol=1e-8)


def test_one_class_has_probability_one():
    result = logistic_regression(drawn(3, 4), torch.tensor([7, 7, 7]), drawn(2, 4), 0.1)
    assert result.probabilities.tolist() == [[1.0], [1.0]]
    assert result.predictions.tolist() == [7, 7]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"penalty": 0.0}, "penalty"),
        ({"features": torch.full((2, 3), math.nan)}, "features"),
        ({"labels": torch.tensor([0.0, 1.0])}, "labels"),
        ({"test_features": torch.zeros(2, 4)}, "test_features"),
    ],
)
def test_wrong_regression_is_named(change, named):
    arguments = {
        "features": torch.zeros(2, 3),
        "labels": torch.tensor([0, 1]),
        "test_features": torch.zeros(2, 3),
    }
    with pytest.raises(InvalidInput, match=named):
        logistic_regression(**({"penalty": 0.1} | arguments | change))
