"""Margins of patches against loops over pairs, in bounded memory."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fewsight.errors import InvalidInput
from fewsight.heads import dense_matching
from fewsight.heads.dense_matching import (
    cycle_consistency,
    foreground_margin,
    nearest_weighted,
    neighbours_for,
    neighbours_of_prior,
    presence_score,
    smooth_margins,
    weighted_means,
)

CLASSES = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 0, 1])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def task() -> tuple[torch.Tensor, ...]:
    prior = torch.rand(11, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    prior[2], prior[5] = 0, 1
    return random(7, 5), random(11, 5, seed=1), prior, CLASSES


def by_loops(query, support, prior, classes, num_classes, k, temperature):
    mean = support.mean(0)
    similarity = [[float(F.cosine_similarity(q - mean, s - mean, dim=0)) for s in support] for q in query]

    def best(row, members, weights):
        z = sorted(
            (row[i] + temperature * math.log(max(float(weights[i]), 1e-6)) for i in members), reverse=True
        )[:k]
        return temperature * (math.log(sum(math.exp(v / temperature) for v in z)) - math.log(len(z)))

    everyone = range(len(support))
    return torch.tensor(
        [
            [
                best(row, [i for i in everyone if classes[i] == c], prior) - best(row, everyone, 1 - prior)
                for row in similarity
            ]
            for c in range(num_classes)
        ],
        dtype=torch.float64,
    )


@pytest.mark.parametrize("neighbours", [1, 3, 50])
@pytest.mark.parametrize("chunk", [2048, 3, 1])
def test_margin_equals_loops_at_any_chunk(
    neighbours: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_matching, "CHUNK", chunk)
    found = foreground_margin(*task(), num_classes=3, neighbours=neighbours, temperature=0.1)
    torch.testing.assert_close(found, by_loops(*task(), 3, neighbours, 0.1), rtol=1e-12, atol=1e-12)


def test_margin_does_not_depend_on_order_names_and_scale() -> None:
    query, support, prior, classes = task()
    expected = foreground_margin(query, support, prior, classes, num_classes=3)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    shuffled = foreground_margin(query, support[order], prior[order], classes[order], num_classes=3)
    torch.testing.assert_close(shuffled, expected)
    renamed = foreground_margin(query, support, prior, (classes + 1) % 3, num_classes=3)
    torch.testing.assert_close(renamed.roll(-1, 0), expected)
    turn = torch.linalg.qr(random(5, 5, seed=5)).Q
    moved = foreground_margin(100 * query @ turn + 7, 100 * support @ turn + 7, prior, classes, num_classes=3)
    torch.testing.assert_close(moved, expected)


def test_queries_do_not_influence_one_another() -> None:
    query, *rest = task()
    expected = foreground_margin(query, *rest, num_classes=3)
    torch.testing.assert_close(foreground_margin(query[2:3], *rest, num_classes=3), expected[:, 2:3])


def test_margin_gradient() -> None:
    query, support, prior, classes = task()
    inputs = (query.requires_grad_(), support.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda q, s: foreground_margin(q, s, prior, classes, num_classes=3, neighbours=4), inputs
    )


def test_float32_is_kept() -> None:
    query, support, prior, classes = task()
    found = foreground_margin(query.float(), support.float(), prior, classes, num_classes=3)
    assert found.dtype == torch.float32
    assert (
        cycle_consistency(query.float(), support.float(), prior, classes, num_classes=3).dtype
        == torch.float32
    )


@pytest.mark.parametrize("chunk", [2048, 2])
def test_cycle_equals_loops(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_matching, "CHUNK", chunk)
    query, support, prior, classes = task()
    mean = support.mean(0)
    similarity = F.normalize(support - mean, dim=1) @ F.normalize(query - mean, dim=1).T
    expected = torch.zeros(3, dtype=torch.float64)
    for c in range(3):
        own = [i for i in range(11) if classes[i] == c]
        homes = [int(similarity[:, int(similarity[i].argmax())].argmax()) for i in own]
        back = [
            float(prior[i]) for i, j in zip(own, homes, strict=True) if classes[j] == c and prior[j] >= 0.5
        ]
        expected[c] = sum(back) / sum(float(prior[i]) for i in own)
    torch.testing.assert_close(cycle_consistency(*task(), num_classes=3), expected)


def test_no_foreground_no_cycle() -> None:
    query, support, prior, classes = task()
    assert cycle_consistency(query, support, prior * (classes != 1), classes, num_classes=3)[1] == 0


def test_presence_is_a_mean_of_the_largest() -> None:
    margin = torch.arange(30.0).view(2, 15)
    assert presence_score(margin, fraction=0.1).tolist() == [13.5, 28.5]
    assert presence_score(margin, fraction=1e-9).tolist() == [14, 29]
    # 0.07 · 100 is 7.000000000000001 in floating point, and still seven.
    assert presence_score(torch.arange(100.0)[None], fraction=0.07).tolist() == [96]


def test_smoothing_shares_among_like_patches() -> None:
    patches = F.normalize(torch.tensor([[1.0, 0], [1, 0.01], [0, 1]]), dim=1)
    smoothed = smooth_margins(torch.tensor([[1.0, 0, 0]]), patches)
    assert smoothed[0].tolist() == pytest.approx([0.75, 0.25, 0], abs=1e-3)
    constant = smooth_margins(torch.full((2, 3), 0.4), patches)
    torch.testing.assert_close(constant, torch.full((2, 3), 0.4))


def test_neighbours_follow_the_smallest_foreground() -> None:
    classes = torch.tensor([0] * 30 + [1] * 6)
    assert neighbours_for(torch.ones(36), classes, num_classes=2) == 3
    assert neighbours_for(torch.ones(36) * 0.1, classes, num_classes=2) == 1
    assert neighbours_for(torch.ones(60), torch.tensor([0, 1] * 30), num_classes=2) == 10


def test_neighbours_of_priors() -> None:
    prior = torch.ones(3, 3, 12)
    membership = torch.tensor([[True, False, False], [True, False, False], [False, True, False]])
    prior[2, 1] = 0.5
    assert neighbours_of_prior(prior, membership) == 3  # six patches of class 1; class 2 has no image


@pytest.mark.parametrize("chunk", [2048, 2])
def test_nearest_weighted(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_matching, "CHUNK", chunk)
    query, bank, weight = random(6, 4), random(9, 4, seed=1), random(9, seed=2)
    assert torch.equal(nearest_weighted(query, bank, weight), (query @ bank.T + weight).argmax(1))


def test_weighted_means() -> None:
    means = weighted_means(torch.tensor([[3.0, 0], [0, 1]]), torch.tensor([[1.0, 0], [0, 0]]))
    assert means[0].tolist() == [1, 0]
    torch.testing.assert_close(means[1], F.normalize(torch.tensor([3.0, 1]), dim=0))


def test_errors_name_the_argument() -> None:
    query, support, prior, classes = task()
    for changed, word in (
        ((query[:, :3], support, prior, classes), "support"),
        ((query, support, prior + 1, classes), "prior"),
        ((query, support, prior, classes + 1), "support_class"),
        ((query, support, prior, classes * 0), "support_class"),
        ((query, support, prior, classes.double()), "support_class"),
    ):
        with pytest.raises(InvalidInput, match=word):
            foreground_margin(*changed, num_classes=3)
    with pytest.raises(InvalidInput, match="neighbours"):
        foreground_margin(*task(), num_classes=3, neighbours=0)
    with pytest.raises(InvalidInput, match="temperature"):
        foreground_margin(*task(), num_classes=3, temperature=0)
    with pytest.raises(InvalidInput, match="fraction"):
        presence_score(torch.ones(1, 4), fraction=0)
    with pytest.raises(InvalidInput, match="margin"):
        presence_score(torch.ones(4))
