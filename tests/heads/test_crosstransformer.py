"""CrossTransformers: the plain oracle, every invariant of the head, errors, and the head's faces."""

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


def same(left, right):
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


def test_order_of_supports_and_queries_and_names_of_classes():
    given = episode()
    logits = crosstransformer_logits(**given)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    same(
        crosstransformer_logits(
            **changed(given, supports=given["supports"][order], labels=given["labels"][order])
        ),
        logits,
    )
    rows = torch.tensor([2, 0, 3, 1])
    same(crosstransformer_logits(**changed(given, queries=given["queries"][rows])), logits[rows])
    same(crosstransformer_logits(**changed(given, labels=given["labels"] * 2 - 20)), logits)
    same(crosstransformer_logits(**changed(given, labels=-given["labels"])), logits.flip(1))


def test_a_row_depends_on_its_query_and_a_column_on_its_class():
    given = episode()
    logits = crosstransformer_logits(**given)
    for row in range(4):
        same(
            crosstransformer_logits(**changed(given, queries=given["queries"][row : row + 1])),
            logits[row : row + 1],
        )
    for column, label in enumerate(given["labels"].unique()):
        kept = given["labels"] != label
        others = [c for c in range(3) if c != column]
        fewer = changed(given, supports=given["supports"][kept], labels=given["labels"][kept])
        same(crosstransformer_logits(**fewer), logits[:, others])


def test_repeating_images():
    given = episode()
    logits, labels = crosstransformer_logits(**given), given["labels"]
    whole = [*range(6), *(labels == 1).nonzero()[:, 0].tolist()]  # every image of class 1 once more
    same(
        crosstransformer_logits(**changed(given, supports=given["supports"][whole], labels=labels[whole])),
        logits,
    )
    one = [*range(6), int((labels == 1).nonzero()[0])]
    partly = crosstransformer_logits(**changed(given, supports=given["supports"][one], labels=labels[one]))
    same(partly[:, 1:], logits[:, 1:])
    assert (partly[:, 0] - logits[:, 0]).abs().min() > 1e-6


def test_positions_have_no_order():
    given = episode()
    logits = crosstransformer_logits(**given)
    for name in ("queries", "supports"):
        maps = given[name]
        mixed = torch.stack([m.flatten(1)[:, torch.randperm(m[0].numel())].view_as(m) for m in maps])
        same(crosstransformer_logits(**changed(given, **{name: mixed})), logits)


def test_scales_and_rotations_of_the_maps():
    given = episode()
    logits = crosstransformer_logits(**given)
    same(crosstransformer_logits(**changed(given, value_weight=3 * given["value_weight"])), 9 * logits)
    for name in ("key_weight", "value_weight"):
        rotation = torch.linalg.qr(torch.randn(len(given[name]), len(given[name]), dtype=torch.float64)).Q
        same(crosstransformer_logits(**changed(given, **{name: rotation @ given[name]})), logits)
    hotter = crosstransformer_logits(**changed(given, key_weight=2 * given["key_weight"]))
    scores_times_four = changed(given, key_weight=torch.cat([given["key_weight"]] * 4) * 2**0.5)
    # Four copies of the keys times sqrt 2: dot products times 8, over sqrt(4 Dk): scores times 4 too.
    same(crosstransformer_logits(**scores_times_four), hotter)


def with_ones(given):
    """A channel of ones in every map, so that a map's weight for it is a bias."""

    def ones(maps):
        return torch.cat([maps, torch.ones_like(maps[:, :1])], 1)

    def bias(weight):
        return torch.cat([weight, torch.zeros_like(weight[:, :1])], 1)

    maps = {name: ones(given[name]) for name in ("queries", "supports")}
    return changed(given, **maps, **{name: bias(given[name]) for name in ("key_weight", "value_weight")})


def test_a_bias_of_the_values_cancels_and_one_of_the_keys_does_not():
    given = with_ones(episode())
    logits = crosstransformer_logits(**given)
    for name, cancels in (("value_weight", True), ("key_weight", False)):
        weight = given[name].clone()
        weight[:, -1] = 2.0
        shifted = crosstransformer_logits(**changed(given, **{name: weight}))
        assert torch.allclose(shifted, logits, **EXACT) is cancels
    weight = given["value_weight"].requires_grad_()
    crosstransformer_logits(**given).square().sum().backward()
    # Zero up to rounding beside gradients of order 1e3.
    assert weight.grad[:, -1].abs().max() < 1e-10 * weight.grad.abs().max()


def test_uniform_attention_and_prototypes():
    given = episode()
    uniform = crosstransformer_logits(**changed(given, key_weight=torch.zeros_like(given["key_weight"])))

    def values(maps):
        return torch.einsum("dc,bcp->bpd", given["value_weight"], maps.flatten(2))

    means = torch.stack(
        [values(given["supports"])[given["labels"] == c].mean((0, 1)) for c in given["labels"].unique()]
    )
    distances = (values(given["queries"])[:, :, None] - means).square().sum(3).mean(1)
    same(uniform, -distances)
    point = episode(shots=(1, 1, 1), grid=(1, 1), support_grid=(1, 1))
    x, s = point["queries"].flatten(1), point["supports"].flatten(1)[point["labels"].argsort()]
    same(crosstransformer_logits(**point), -((x[:, None] - s) @ point["value_weight"].T).square().sum(2))


def test_bounds():
    given = episode()
    logits = crosstransformer_logits(**given)
    assert (logits <= 0).all()
    twice = changed(
        given, supports=torch.cat([given["supports"]] * 2), labels=torch.arange(2).repeat_interleave(6)
    )
    loss = F.cross_entropy(crosstransformer_logits(**twice), torch.tensor([0, 1, 1, 0]))
    same(loss, torch.tensor(2.0, dtype=torch.float64).log())
    # A query that is one of the supports, attention saturated: its own class answers with itself.
    unit = F.normalize(given["supports"], dim=1)
    own = crosstransformer_logits(
        unit, unit, given["labels"], 1e3 * torch.eye(6).double(), given["value_weight"]
    )
    columns = torch.searchsorted(given["labels"].unique(), given["labels"])
    assert own[torch.arange(6), columns].abs().max() < 1e-12
    assert own.sum(1).max() < -0.1


def test_memory_bound_changes_nothing():
    given = episode(shots=(4, 1, 1, 4, 2), queries=7)
    logits = crosstransformer_logits(**given)
    for memory_mib in (1.0, 1e-2, 1e-3, 1e-4, 1e-9):
        same(crosstransformer_logits(**given, memory_mib=memory_mib), logits)


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
    same(conditioned.scores(queries), expected)


def test_head_needs_no_patches():
    vectors = torch.randn(5, 6).double()
    scores = CrossTransformer().condition(Support(Features(cls=vectors), MEMBERSHIP, ("a", "b", "c")))
    assert scores.scores(Features(cls=vectors[:2])).shape == (2, 3)


def test_with_and_without_a_class(head):
    queries, conditioned = patches(4, seed=1), head.condition(support())
    scores = conditioned.scores(queries)
    same(conditioned.without_class("b").scores(queries), scores[:, [0, 2]])
    larger = conditioned.with_class("d", patches(2, seed=2))
    assert larger.names == ("a", "b", "c", "d")
    same(larger.scores(queries)[:, :3], scores)
    same(larger.without_class("d").scores(queries), scores)
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
    same(found.weight, attention.gather(2, best))
    same(-found.distance.mean(1), conditioned.scores(queries)[:, 1])
    whole = conditioned.matches(queries, "a", top=99)
    same(whole.weight.sum(2), torch.ones(2, 6).double())
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
    same(maps.sum((2, 3, 4)), torch.ones(2, 6).double())
    found = conditioned.matches(queries, "b", top=18)
    flat = maps.flatten(2)
    same(found.weight, flat.sort(2, descending=True).values)
    same(flat.gather(2, found.support * 6 + found.position), found.weight)
    with pytest.raises(InvalidInput, match="no class 'z'"):
        conditioned.attention(queries, "z")


def test_aligned_prototypes_lie_in_the_hull_of_the_values():
    """Along any direction the prototype is no farther out than the outermost value of the class."""
    given = episode()
    generator = torch.Generator().manual_seed(3)
    for direction in torch.randn(5, 4, generator=generator, dtype=torch.float64):
        weight = direction[None] @ given["value_weight"]  # values along the direction, one number each
        values = torch.einsum("dc,bcp->bpd", weight, given["supports"].flatten(2))[..., 0]
        asked = torch.einsum("dc,bcp->bpd", weight, given["queries"].flatten(2))[..., 0]  # [Q, P]
        logits = crosstransformer_logits(**changed(given, value_weight=weight))
        for column, label in enumerate(given["labels"].unique()):
            own = values[given["labels"] == label]
            outside = (asked - own.max()).clamp(min=0)
            outside += (own.min() - asked).clamp(min=0)
            least = outside.square().mean(1)  # the distance to the interval, if the prototype is inside
            assert (-logits[:, column] >= least - 1e-12).all()
            most = torch.maximum((asked - own.min()).abs(), (asked - own.max()).abs()).square().mean(1)
            assert (-logits[:, column] <= most + 1e-12).all()


def test_one_class_has_no_loss_and_no_gradient():
    given = episode(shots=(4,))
    given["queries"].requires_grad_()
    loss = F.cross_entropy(crosstransformer_logits(**given), torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert float(loss.detach()) == 0
    assert given["queries"].grad.abs().max() == 0


def test_repeating_one_image_adds_log_2_to_its_scores():
    """The class with an image twice is the class whose scores of that image are larger by log 2."""
    given = episode(shots=(3,))
    twice = changed(given, supports=given["supports"][[0, 0, 1, 2]], labels=given["labels"][[0, 0, 1, 2]])

    def project(maps, weight):
        return torch.einsum("dc,bcp->bpd", weight, maps.flatten(2))

    q, w = (project(given["queries"], given[name]) for name in ("key_weight", "value_weight"))
    k, v = (project(given["supports"], given[name]).flatten(0, 1) for name in ("key_weight", "value_weight"))
    scores = q @ k.T / k.shape[1] ** 0.5
    scores[..., : given["supports"][0, 0].numel()] += torch.tensor(2.0).double().log()
    aligned = torch.softmax(scores, -1) @ v
    same(crosstransformer_logits(**twice)[:, 0], -(aligned - w).square().sum(2).mean(1))
