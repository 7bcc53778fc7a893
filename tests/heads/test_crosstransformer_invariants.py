"""What is true of every CrossTransformer, on drawn episodes in float64: any shots, grids and widths, any memory bound.

The small bounds take the form that recomputes, in tiles of a few query positions; the large one is one graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewsight.heads.crosstransformer import crosstransformer_logits
from fewsight.heads.prototypes import prototype_logits

EXACT = {"rtol": 1e-9, "atol": 1e-11}  # float64: only the order of sums differs
LOG_2 = 0.6931471805599453


@dataclass(frozen=True)
class Drawn:
    """An episode, the two maps, a memory bound, and a seed for what a test changes."""

    queries: Tensor
    supports: Tensor
    labels: Tensor
    key_weight: Tensor
    value_weight: Tensor
    memory_mib: float
    seed: int

    def logits(self, **changes: Any) -> Tensor:
        changed = replace(self, **changes)
        values = {name: value for name, value in vars(changed).items() if name != "seed"}
        return crosstransformer_logits(**values)

    @property
    def classes(self) -> list[int]:
        return self.labels.unique().tolist()

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def permutation(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self.generator)

    def rotation(self, size: int) -> Tensor:
        return torch.linalg.qr(torch.randn(size, size, generator=self.generator, dtype=torch.float64)).Q


def made(
    seed: int,
    shots: list[int],
    queries: int,
    grid: tuple[int, int],
    support_grid: tuple[int, int],
    widths: tuple[int, int, int],
    memory_mib: float,
) -> Drawn:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    width, keys, values = widths
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots)) * 3 + 1
    return Drawn(
        normal(queries, width, *grid),
        normal(len(labels), width, *support_grid),
        labels[torch.randperm(len(labels), generator=generator)],
        normal(keys, width),
        normal(values, width),
        memory_mib,
        seed,
    )


sides = st.integers(1, 3)
grids = st.tuples(sides, sides)
several = st.lists(st.integers(1, 4), min_size=2, max_size=4)
bounds = st.sampled_from([128.0, 1e-3, 1e-6])


def episodes(
    shots: st.SearchStrategy[list[int]] = several,
    grid: st.SearchStrategy[tuple[int, int]] = grids,
    support_grid: st.SearchStrategy[tuple[int, int]] = grids,
) -> st.SearchStrategy[Drawn]:
    widths = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))
    return st.builds(
        made, st.integers(0, 2**31), shots, st.integers(1, 4), grid, support_grid, widths, bounds
    )


points = st.just((1, 1))
for_any_episode = given(drawn=episodes())
often = settings(max_examples=25, deadline=None, derandomize=True)


def assert_same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, **EXACT)


def projected(maps: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("dc,bcp->bpd", weight, maps.flatten(2))  # [B, P, D]


@often
@for_any_episode
def test_order_of_supports_and_of_queries(drawn: Drawn) -> None:
    logits = drawn.logits()
    order, rows = drawn.permutation(len(drawn.supports)), drawn.permutation(len(drawn.queries))
    assert_same(drawn.logits(supports=drawn.supports[order], labels=drawn.labels[order]), logits)
    assert_same(drawn.logits(queries=drawn.queries[rows]), logits[rows])


@often
@for_any_episode
def test_names_of_classes_move_columns_and_nothing_else(drawn: Drawn) -> None:
    logits = drawn.logits()
    assert_same(drawn.logits(labels=drawn.labels * 7 - 20), logits)
    assert_same(drawn.logits(labels=-drawn.labels), logits.flip(1))


@often
@for_any_episode
def test_a_row_depends_on_its_query_alone(drawn: Drawn) -> None:
    assert_same(torch.cat([drawn.logits(queries=one[None]) for one in drawn.queries]), drawn.logits())


@often
@for_any_episode
def test_a_column_depends_on_its_class_alone(drawn: Drawn) -> None:
    logits = drawn.logits()
    for column, label in enumerate(drawn.classes):
        kept = drawn.labels != label
        others = [other for other in range(logits.shape[1]) if other != column]
        assert_same(drawn.logits(supports=drawn.supports[kept], labels=drawn.labels[kept]), logits[:, others])
        alone = drawn.logits(supports=drawn.supports[~kept], labels=drawn.labels[~kept])
        assert_same(alone, logits[:, column : column + 1])


@often
@given(drawn=episodes(), times=st.integers(2, 3))
def test_all_images_of_a_class_again_change_nothing(drawn: Drawn, times: int) -> None:
    own = (drawn.labels == drawn.classes[0]).nonzero()[:, 0].tolist()
    rows = [*range(len(drawn.labels)), *(own * (times - 1))]
    assert_same(drawn.logits(supports=drawn.supports[rows], labels=drawn.labels[rows]), drawn.logits())


@often
@given(drawn=episodes(st.lists(st.integers(2, 4), min_size=2, max_size=3)))
def test_one_image_again_adds_log_2_to_its_scores_and_leaves_other_columns(drawn: Drawn) -> None:
    own = drawn.labels == drawn.classes[0]
    rows = [*range(len(drawn.labels)), int(own.nonzero()[0])]
    found = drawn.logits(supports=drawn.supports[rows], labels=drawn.labels[rows])
    assert_same(found[:, 1:], drawn.logits()[:, 1:])
    q, w = (projected(drawn.queries, weight) for weight in (drawn.key_weight, drawn.value_weight))
    k, v = (projected(drawn.supports[own], weight) for weight in (drawn.key_weight, drawn.value_weight))
    scores = q @ k.flatten(0, 1).T / k.shape[2] ** 0.5
    scores[..., : k.shape[1]] += LOG_2  # the positions of the image that stands twice
    aligned = torch.softmax(scores, -1) @ v.flatten(0, 1)
    assert_same(found[:, 0], -(aligned - w).square().sum(2).mean(1))


@often
@for_any_episode
def test_positions_have_no_order(drawn: Drawn) -> None:
    logits, generator = drawn.logits(), drawn.generator

    def mixed(maps: Tensor) -> Tensor:  # another order for each image
        cells = maps[0, 0].numel()
        return torch.stack(
            [m.flatten(1)[:, torch.randperm(cells, generator=generator)].view_as(m) for m in maps]
        )

    assert_same(drawn.logits(queries=mixed(drawn.queries)), logits)
    assert_same(drawn.logits(supports=mixed(drawn.supports)), logits)


@often
@given(drawn=episodes(), factor=st.floats(0.25, 4.0))
def test_a_factor_on_the_values_is_squared_in_the_logits(drawn: Drawn, factor: float) -> None:
    assert_same(drawn.logits(value_weight=factor * drawn.value_weight), factor**2 * drawn.logits())


@often
@given(drawn=episodes(), factor=st.floats(0.25, 2.0))
def test_a_factor_on_the_keys_is_a_temperature(drawn: Drawn, factor: float) -> None:
    """Scores times the factor squared; n copies of the keys have scores n / sqrt(n) as large."""
    found = drawn.logits(key_weight=factor * drawn.key_weight)
    copies = torch.cat([drawn.key_weight] * 4) * factor / 2**0.5
    assert_same(drawn.logits(key_weight=copies), found)


@often
@for_any_episode
def test_rotations_of_either_map_change_nothing(drawn: Drawn) -> None:
    logits = drawn.logits()
    for name in ("key_weight", "value_weight"):
        weight = getattr(drawn, name)
        assert_same(drawn.logits(**{name: drawn.rotation(len(weight)) @ weight}), logits)


def with_bias(drawn: Drawn, name: str, size: float) -> dict[str, Tensor]:
    """A channel of ones in every map makes a map's weight for it a bias."""
    maps = {
        side: torch.cat([value, torch.ones_like(value[:, :1])], 1)
        for side, value in (("queries", drawn.queries), ("supports", drawn.supports))
    }
    weights = {
        key: torch.cat([value, torch.full_like(value[:, :1], size if key == name else 0.0)], 1)
        for key, value in (("key_weight", drawn.key_weight), ("value_weight", drawn.value_weight))
    }
    return {**maps, **weights}


@often
@given(drawn=episodes(), size=st.floats(-3.0, 3.0))
def test_a_bias_of_the_values_cancels_and_has_no_gradient(drawn: Drawn, size: float) -> None:
    given_bias = with_bias(drawn, "value_weight", size)
    weight = given_bias["value_weight"].requires_grad_()
    logits = drawn.logits(**given_bias)
    torch.testing.assert_close(logits, drawn.logits(), rtol=1e-8, atol=1e-10)
    logits.square().sum().backward()
    assert weight.grad is not None
    assert weight.grad[:, -1].abs().max() < 1e-9 * max(1.0, float(weight.grad.abs().max()))


@often
@given(drawn=episodes(several, grids, st.tuples(st.integers(2, 3), sides)))
def test_a_bias_of_the_keys_leaves_the_term_that_depends_on_the_support(drawn: Drawn) -> None:
    """(q + b).(k + b) = q.k + b.k + what is the same for all keys: only b.k can move the attention."""
    found = drawn.logits(**with_bias(drawn, "key_weight", 1.5))
    bias = torch.full((len(drawn.key_weight),), 1.5, dtype=torch.float64)
    q, w = (projected(drawn.queries, weight) for weight in (drawn.key_weight, drawn.value_weight))
    columns = []
    for label in drawn.classes:
        own = drawn.supports[drawn.labels == label]
        k, v = (projected(own, weight).flatten(0, 1) for weight in (drawn.key_weight, drawn.value_weight))
        attention = torch.softmax((q @ k.T + k @ bias) / k.shape[1] ** 0.5, -1)
        columns.append(-(attention @ v - w).square().sum(2).mean(1))
    assert_same(found, torch.stack(columns, 1))
    assert (found - drawn.logits()).abs().max() > 1e-9


@often
@for_any_episode
def test_without_keys_attention_is_even(drawn: Drawn) -> None:
    values, w = projected(drawn.supports, drawn.value_weight), projected(drawn.queries, drawn.value_weight)
    means = torch.stack([values[drawn.labels == label].mean((0, 1)) for label in drawn.classes])
    expected = -(w[:, :, None] - means).square().sum(3).mean(1)
    assert_same(drawn.logits(key_weight=torch.zeros_like(drawn.key_weight)), expected)


@often
@given(drawn=episodes(grid=points, support_grid=points))
def test_without_keys_on_one_place_it_is_prototypes_of_the_values(drawn: Drawn) -> None:
    values = [projected(maps, drawn.value_weight)[:, 0] for maps in (drawn.queries, drawn.supports)]
    found = drawn.logits(key_weight=torch.zeros_like(drawn.key_weight))
    assert_same(found, prototype_logits(*values, drawn.labels, metric="euclidean"))


@often
@given(drawn=episodes(st.lists(st.just(1), min_size=1, max_size=4), points, points))
def test_one_shot_on_one_place_needs_no_keys(drawn: Drawn) -> None:
    x, s = drawn.queries.flatten(1), drawn.supports.flatten(1)[drawn.labels.argsort()]
    assert_same(drawn.logits(), -((x[:, None] - s) @ drawn.value_weight.T).square().sum(2))


@often
@for_any_episode
def test_logits_are_at_most_zero(drawn: Drawn) -> None:
    assert (drawn.logits() <= 0).all()


@often
@for_any_episode
def test_aligned_prototypes_lie_in_the_hull_of_the_values(drawn: Drawn) -> None:
    """Along any direction no prototype is farther out than the outermost value of its class."""
    direction = torch.randn(1, len(drawn.value_weight), generator=drawn.generator, dtype=torch.float64)
    weight = direction @ drawn.value_weight  # values along the direction, one number each
    logits = drawn.logits(value_weight=weight)
    asked = projected(drawn.queries, weight)[..., 0]  # [Q, P]
    for column, label in enumerate(drawn.classes):
        own = projected(drawn.supports[drawn.labels == label], weight)[..., 0]
        outside = (asked - own.max()).clamp(min=0) + (own.min() - asked).clamp(min=0)
        assert (-logits[:, column] >= outside.square().mean(1) - 1e-11).all()
        farthest = torch.maximum((asked - own.min()).abs(), (asked - own.max()).abs())
        assert (-logits[:, column] <= farthest.square().mean(1) * (1 + 1e-12) + 1e-11).all()


@often
@given(drawn=episodes(), ways=st.integers(2, 5))
def test_equal_supports_for_all_classes_give_the_loss_of_chance(drawn: Drawn, ways: int) -> None:
    labels = torch.arange(ways).repeat_interleave(len(drawn.supports))
    logits = drawn.logits(supports=torch.cat([drawn.supports] * ways), labels=labels)
    loss = F.cross_entropy(logits, torch.arange(len(drawn.queries)) % ways)
    assert_same(loss, torch.tensor(float(ways), dtype=torch.float64).log())


@often
@given(drawn=episodes(st.lists(st.integers(1, 4), min_size=1, max_size=1)))
def test_one_class_has_no_loss_and_no_gradient(drawn: Drawn) -> None:
    leaves = {name: getattr(drawn, name).requires_grad_() for name in ("queries", "supports", "key_weight")}
    loss = F.cross_entropy(drawn.logits(**leaves), torch.zeros(len(drawn.queries), dtype=torch.long))
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(leaf.grad is not None and leaf.grad.abs().max() == 0 for leaf in leaves.values())


@often
@given(drawn=episodes(grid=points, support_grid=grids))
def test_a_query_that_is_a_support_is_found_by_sharp_attention(drawn: Drawn) -> None:
    """Keys of one length, so that none but itself is as near; the other way round a longer key could win."""
    width = drawn.supports.shape[1] + 1
    unit = F.normalize(F.pad(drawn.supports, (0, 0, 0, 0, 0, 1), value=1.0), dim=1)
    sharp = 1e4 * torch.eye(width, dtype=torch.float64)
    weight = F.pad(drawn.value_weight, (0, 1), value=1.0)
    places = unit.flatten(2).transpose(1, 2).flatten(0, 1)
    near = (places @ places.T - 2 * torch.eye(len(places), dtype=torch.float64)).max()
    if near > 1 - 1e-5:  # two places are all but equal: attention is shared
        return
    own = drawn.logits(queries=unit, supports=unit, key_weight=sharp, value_weight=weight)
    columns = torch.searchsorted(drawn.labels.unique(), drawn.labels)
    assert own[torch.arange(len(unit)), columns].abs().max() < 1e-9


@often
@given(drawn=episodes(), bound=st.floats(1e-7, 1.0))
def test_any_memory_bound_gives_the_same(drawn: Drawn, bound: float) -> None:
    assert_same(drawn.logits(memory_mib=bound), drawn.logits(memory_mib=128.0))
