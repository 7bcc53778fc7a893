"""CrossTransformers: the plain oracle, gradients, errors, and the faces of the head."""

import pytest
import torch
import torch.nn.functional as F

from fewsight.backbones.features import Features
from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.heads.crosstransformer import CrossTransformer, crosstransformer_logits
from fewsight.heads.head import Conditioned, Head, Support

EXACT = {"rtol": 1e-10, "atol": 1e-12}  # float64: only the order of sums differs
RECOMPUTED = 1e-6  # MiB: no graph fits, tiles hold a few query positions


def oracle(queries, supports, labels, key_weight, value_weight):
    """The formula of the paper, class by class, with the whole score matrix."""

    def project(maps, weight):
        return torch.einsum("dc,bcp->bpd", weight, maps.flatten(2))

    q, w = project(queries, key_weight), project(queries, value_weight)
    k, v = project(supports, key_weight), project(supports, value_weight)
    columns = []
    for label in labels.unique():
        keys, values = k[labels == label].flatten(0, 1), v[labels == label].flatten(0, 1)
        attention = torch.softmax(q @ keys.T / keys.shape[1] ** 0.5, -1)
        columns.append(-(attention @ values - w).square().sum(2).mean(1))
    return torch.stack(columns, 1)


def episode(seed=0, shots=(3, 1, 2), queries=4, grid=(3, 2), support_grid=(2, 4), width=6, keys=5, values=4):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots)) * 3 + 1
    return {
        "queries": normal(queries, width, *grid),
        "supports": normal(len(labels), width, *support_grid),
        "labels": labels[torch.randperm(len(labels), generator=generator)],
        "key_weight": normal(keys, width),
        "value_weight": normal(values, width),
    }


def changed(given, **changes):
    return {**given, **changes}


def assert_same(left, right):
    torch.testing.assert_close(left, right, **EXACT)


@pytest.mark.parametrize("memory_mib", [128.0, 1e-3, RECOMPUTED])
@pytest.mark.parametrize("shots", [(1,), (3, 1, 2), (2, 2, 2, 2), (1, 7, 1, 2, 2)])
@pytest.mark.parametrize("widths", [(5, 4), (4, 4)])
def test_values_and_gradients_are_those_of_the_formula(shots, widths, memory_mib):
    given = episode(shots=shots, keys=widths[0], values=widths[1])
    weights = torch.linspace(-1, 1, 4 * len(shots), dtype=torch.float64).view(4, -1)
    results = []
    for function, settings in ((crosstransformer_logits, {"memory_mib": memory_mib}), (oracle, {})):
        leaves = {name: x.clone().requires_grad_(x.is_floating_point()) for name, x in given.items()}
        logits = function(**leaves, **settings)
        (logits * weights).sum().backward()
        results.append([logits, *(x.grad for x in leaves.values() if x.requires_grad)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-10)


def test_gradcheck_of_the_form_that_recomputes():
    given = episode(shots=(2, 1), queries=2, width=3, grid=(1, 2), support_grid=(2, 1))
    leaves = [given[name].requires_grad_() for name in ("queries", "supports", "key_weight", "value_weight")]

    def function(q, s, k, v):
        return crosstransformer_logits(q, s, given["labels"], k, v, memory_mib=RECOMPUTED)

    assert torch.autograd.gradcheck(function, leaves)


def test_inputs_are_not_changed():
    given = episode()
    before = {name: x.clone() for name, x in given.items()}
    crosstransformer_logits(**given)
    crosstransformer_logits(**given, memory_mib=RECOMPUTED)
    assert all(torch.equal(given[name], before[name]) for name in given)


@pytest.mark.parametrize("memory_mib", [128.0, RECOMPUTED])
def test_large_scores_stay_finite(memory_mib):
    given = {name: x.float() if x.is_floating_point() else x for name, x in episode().items()}
    given["key_weight"] = given["key_weight"] * 1e2  # scores of 1e4
    given["queries"] = given["queries"].requires_grad_()
    logits = crosstransformer_logits(**given, memory_mib=memory_mib)
    logits.sum().backward()
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert given["queries"].grad.isfinite().all()


@pytest.mark.parametrize("memory_mib", [128.0, RECOMPUTED])
def test_autocast_takes_products_in_half_precision_and_sums_in_single(memory_mib):
    given = {name: x.float() if x.is_floating_point() else x for name, x in episode().items()}
    exact = crosstransformer_logits(**given)
    given["supports"].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logits = crosstransformer_logits(**given, memory_mib=memory_mib)
    logits.sum().backward()
    assert logits.dtype == given["supports"].grad.dtype == torch.float32
    # bfloat16 has 8 bits: 0.4 % a product, and scores move the attention by as much.
    assert (logits - exact).abs().max() < 0.05 * exact.abs().max()
    assert not torch.equal(logits, exact)


def test_no_query_gives_no_row():
    given = episode()
    assert crosstransformer_logits(**changed(given, queries=given["queries"][:0])).shape == (0, 3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": torch.zeros(5, dtype=torch.long)}, "labels"),
        ({"labels": torch.zeros(6)}, "labels"),
        ({"queries": torch.zeros(2, 5, 1, 1)}, "supports"),
        ({"queries": torch.zeros(2, 6)}, "queries"),
        ({"key_weight": torch.zeros(2, 7)}, "key_weight"),
        ({"value_weight": torch.zeros(2, 7)}, "value_weight"),
        ({"memory_mib": 0.0}, "memory_mib"),
        ({"memory_mib": float("nan")}, "memory_mib"),
        ({"supports": torch.zeros(0, 6, 2, 4), "labels": torch.zeros(0, dtype=torch.long)}, "labels"),
        ({"queries": torch.zeros(2, 6, 0, 1).double()}, "grid"),
        ({"queries": torch.zeros(2, 6, 1, 1)}, "dtype"),
    ],
)
def test_errors_name_the_argument(changes, named):
    with pytest.raises(InvalidInput, match=named):
        crosstransformer_logits(**changed(episode(), **changes))


def patches(count, seed=0, grid=(2, 3), width=6):
    generator = torch.Generator().manual_seed(seed)
    return Features(patches=torch.randn(count, *grid, width, generator=generator, dtype=torch.float64))


MEMBERSHIP = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [0, 1, 0]]).bool()


def support():
    return Support(patches(5), MEMBERSHIP, ("a", "b", "c"))


@pytest.fixture(params=["trained", "untrained"])
def head(request):
    torch.manual_seed(0)
    return (
        CrossTransformer(6, key_dim=4, value_dim=5).double()
        if request.param == "trained"
        else CrossTransformer()
    )


def test_head_gives_the_scores_of_the_function(head):
    queries = patches(4, seed=1)
    conditioned = head.condition(support())
    assert isinstance(head, Head)
    assert isinstance(conditioned, Conditioned)
    images, columns = MEMBERSHIP.nonzero().T  # an image of two classes stands twice

    def maps(features):
        return features.patches.permute(0, 3, 1, 2)

    if head.key_weight is None:

        def unit(features):
            return F.normalize(maps(features), dim=1)

        eye = torch.eye(6).double()
        scale = (6**0.5 / head.attention_temperature) ** 0.5
        expected = crosstransformer_logits(
            unit(queries), unit(support().features)[images], columns, scale * eye, eye
        )
    else:
        expected = crosstransformer_logits(
            maps(queries), maps(support().features)[images], columns, head.key_weight, head.value_weight
        )
    assert_same(conditioned.scores(queries), expected)


def test_head_needs_no_patches():
    vectors = torch.randn(5, 6).double()
    scores = CrossTransformer().condition(Support(Features(cls=vectors), MEMBERSHIP, ("a", "b", "c")))
    assert scores.scores(Features(cls=vectors[:2])).shape == (2, 3)


def test_with_and_without_a_class(head):
    queries, conditioned = patches(4, seed=1), head.condition(support())
    scores = conditioned.scores(queries)
    assert_same(conditioned.without_class("b").scores(queries), scores[:, [0, 2]])
    larger = conditioned.with_class("d", patches(2, seed=2))
    assert larger.names == ("a", "b", "c", "d")
    assert_same(larger.scores(queries)[:, :3], scores)
    assert_same(larger.without_class("d").scores(queries), scores)
    for fault in (
        lambda: conditioned.with_class("a", patches(1)),
        lambda: conditioned.with_class("d", patches(1, grid=(1, 3))),
        lambda: conditioned.without_class("z"),
    ):
        with pytest.raises(InvalidInput):
            fault()


def test_state_is_enough_to_restore(head):
    queries, conditioned = patches(4, seed=1), head.condition(support())
    again = head.restore(conditioned.names, conditioned.state())
    assert torch.equal(again.scores(queries), conditioned.scores(queries))
    assert again.grid == (2, 3)
    with pytest.raises(IncompatibleModel):
        head.restore(("a", "b"), conditioned.state())
    with pytest.raises(IncompatibleModel):
        head.restore(("a",), {"keys": torch.zeros(1)})


def test_settings_and_parameters_make_the_head_again(head):
    again = CrossTransformer(**head.settings()).double()
    again.load_state_dict(head.state_dict())
    queries = patches(4, seed=1)
    assert torch.equal(again.condition(support()).scores(queries), head.condition(support()).scores(queries))
    assert again.settings() == head.settings()


def test_leave_one_out_is_what_conditioning_without_the_image_gives(head):
    ours, plain = head.leave_one_out(support()), Head.leave_one_out(head, support())
    torch.testing.assert_close(ours.float(), plain, rtol=1e-5, atol=1e-6)  # the plain form keeps float32
    assert ours[0, 0] == -torch.inf


def test_matches_are_the_strongest_attention(head):
    queries, conditioned = patches(2, seed=1), head.condition(support())
    found = conditioned.matches(queries, "b", top=3)
    keys = conditioned.keys[1:4].flatten(0, 1)  # three supports of class b
    query_keys = head.project(queries)[0]
    attention = torch.softmax(query_keys @ keys.T / keys.shape[1] ** 0.5, 2)
    best = attention.argsort(2, descending=True)[..., :3]
    assert torch.equal(found.support * 6 + found.position, best)
    assert_same(found.weight, attention.gather(2, best))
    assert_same(-found.distance.mean(1), conditioned.scores(queries)[:, 1])
    whole = conditioned.matches(queries, "a", top=99)
    assert_same(whole.weight.sum(2), torch.ones(2, 6).double())
    with pytest.raises(InvalidInput):
        conditioned.matches(queries, "b", top=0)
    with pytest.raises(InvalidInput, match="'z'"):
        conditioned.matches(queries, "z")


def test_a_query_that_is_a_support_matches_itself():
    conditioned = CrossTransformer(attention_temperature=0.01).condition(support())
    found = conditioned.matches(support().features.rows([0]), "a")
    assert found.position[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert found.distance.max() < 1e-3


def test_gradients_reach_the_maps_and_the_features():
    head = CrossTransformer(6, key_dim=4, value_dim=4).double()
    features = patches(5).map(lambda x: x.requires_grad_())
    head.condition(Support(features, MEMBERSHIP, ("a", "b", "c"))).scores(patches(2, seed=1)).sum().backward()
    for tensor in (head.key_weight, head.value_weight, features.patches):
        assert tensor.grad.abs().max() > 0


def test_head_errors():
    with pytest.raises(InvalidInput, match="width 6"):
        CrossTransformer(7).condition(support())
    with pytest.raises(InvalidInput, match="attention_temperature"):
        CrossTransformer(attention_temperature=0)


def test_attention_is_the_heat_map_of_the_matches(head):
    queries, conditioned = patches(2, seed=1), head.condition(support())
    maps = conditioned.attention(queries, "b")
    assert maps.shape == (2, 6, 3, 2, 3)
    assert_same(maps.sum((2, 3, 4)), torch.ones(2, 6).double())
    found = conditioned.matches(queries, "b", top=18)
    flat = maps.flatten(2)
    assert_same(found.weight, flat.sort(2, descending=True).values)
    assert_same(flat.gather(2, found.support * 6 + found.position), found.weight)
    with pytest.raises(InvalidInput, match="no class 'z'"):
        conditioned.attention(queries, "z")
