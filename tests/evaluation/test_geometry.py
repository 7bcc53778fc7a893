"""Geometry of features: pairs in plain loops as oracle, closed values, invariants, what is undefined, errors."""

import itertools
import math

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.evaluation import geometry
from fewsight.evaluation.feature_sums import unit_rows

LABELLED = ["intra_class_cosine", "inter_class_cosine", "alignment", "class_separation", "nc1"]
PLAIN = [
    "average_cosine",
    "partition_isotropy",
    "isoscore",
    "participation_ratio",
    "effective_rank",
    "rankme",
]
PLAIN += ["uniformity", "feature_std"]


def data(N=40, D=7, K=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(N, D, generator=generator, dtype=torch.float64) + 0.5
    return features, torch.randint(K, (N,), generator=generator)


def call(name, features, labels):
    return getattr(geometry, name)(*((features, labels) if name in LABELLED else (features,)))


def pairs(features, labels, chosen):
    """Unit rows of every pair that `chosen(label, label)` takes."""
    u = features / features.norm(dim=1, keepdim=True)
    return [(u[i], u[j]) for i, j in itertools.combinations(range(len(u)), 2) if chosen(labels[i], labels[j])]


def mean(values):
    return torch.stack(list(values)).mean()


def test_measures_of_pairs_equal_loops_over_pairs():
    features, labels = data()
    features[3] *= 1e-3
    every = pairs(features, labels, lambda a, b: True)
    inside, across = (
        pairs(features, labels, lambda a, b: a == b),
        pairs(features, labels, lambda a, b: a != b),
    )
    expected = {
        "average_cosine": mean(a @ b for a, b in every),
        "intra_class_cosine": mean(a @ b for a, b in inside),
        "inter_class_cosine": mean(a @ b for a, b in across),
        "uniformity": mean((-2 * (a - b).square().sum()).exp() for a, b in every).log(),
        "alignment": mean((a - b).square().sum() for a, b in inside),
    }
    for name, value in expected.items():
        torch.testing.assert_close(call(name, features, labels), value, rtol=1e-10, atol=1e-12)
    cubes = mean((a - b).norm() ** 3 for a, b in inside)
    torch.testing.assert_close(geometry.alignment(features, labels, 3), cubes, rtol=1e-10, atol=0)
    spread = mean((-0.5 * (a - b).square().sum()).exp() for a, b in every).log()
    torch.testing.assert_close(geometry.uniformity(features, 0.5), spread, rtol=1e-10, atol=0)


@pytest.mark.parametrize("shape", [(40, 7), (6, 9), (5000, 3)])  # the last in several blocks
def test_spectral_measures_equal_those_of_the_singular_values(shape):
    features, _ = data(*shape)
    centred = torch.linalg.svdvals(features - features.mean(0))
    variances, p = centred.square(), centred / centred.sum()
    ratio = variances.sum().square() / variances.square().sum()
    entropy = -(p * p.clamp(min=1e-300).log()).sum()
    raw = torch.linalg.svdvals(features)
    q = raw / raw.sum() + 1e-7
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(geometry.participation_ratio(features), ratio, **close)
    torch.testing.assert_close(geometry.isoscore(features), (ratio - 1) / (shape[1] - 1), **close)
    torch.testing.assert_close(geometry.effective_rank(features), entropy.exp(), **close)
    torch.testing.assert_close(geometry.rankme(features), (-(q * q.log()).sum()).exp(), **close)


def test_large_sets_take_the_scatter_matrix_and_agree(monkeypatch):
    features, _ = data(600, 20)
    direct = [f(features) for f in (geometry.effective_rank, geometry.rankme)]
    exponent = geometry.spectrum_exponent(features, 2, 15)
    monkeypatch.setattr(geometry, "_small", lambda N, D: False)
    for value, function in zip(direct, (geometry.effective_rank, geometry.rankme), strict=True):
        torch.testing.assert_close(function(features), value, rtol=1e-10, atol=0)
    torch.testing.assert_close(geometry.spectrum_exponent(features, 2, 15), exponent, rtol=1e-9, atol=0)


def test_power_law_is_found_again():
    basis = torch.linalg.qr(torch.randn(200, 12, generator=torch.Generator().manual_seed(0)).double()).Q
    centred = torch.linalg.qr(basis - basis.mean(0)).Q  # orthonormal columns of mean zero
    scales = torch.arange(1, 13).double() ** -0.7
    assert geometry.spectrum_exponent(centred * scales, 2, 10).item() == pytest.approx(1.4, abs=1e-9)


def test_collapsed_simplex_has_the_values_of_theory():
    K, n, D = 5, 6, 9
    corners = torch.eye(K, D).double() - torch.cat([torch.full((K, K), 1 / K), torch.zeros(K, D - K)], 1)
    features, labels = corners.repeat_interleave(n, 0), torch.arange(K).repeat_interleave(n)
    N = K * n
    uniform = math.log(((n - 1) + (K - 1) * n * math.exp(-4 * K / (K - 1))) / (N - 1))
    expected = {
        "average_cosine": -1 / (N - 1),
        "intra_class_cosine": 1,
        "inter_class_cosine": -1 / (K - 1),
        "participation_ratio": K - 1,
        "isoscore": (K - 2) / (D - 1),
        "effective_rank": K - 1,
        "class_separation": 1,
        "nc1": 0,
        "alignment": 0,
        "uniformity": uniform,
    }
    for name, value in expected.items():
        assert call(name, features, labels).item() == pytest.approx(value, abs=1e-7), name


def test_nc1_is_the_trace_of_its_definition():
    features, labels = data(60, 5, 4)
    K, N = 4, 60
    means = torch.stack([features[labels == c].mean(0) for c in range(K)])
    within = (features - means[labels]).T @ (features - means[labels]) / N
    between = (means - means.mean(0)).T @ (means - means.mean(0)) / K
    expected = (within @ torch.linalg.pinv(between, rcond=1e-10)).trace() / K
    torch.testing.assert_close(geometry.nc1(features, labels), expected, rtol=1e-8, atol=0)


def test_class_separation_counts_a_row_with_itself():
    features, labels = data(30, 5, 3)
    u = features / features.norm(dim=1, keepdim=True)
    cosine = u @ u.T
    blocks = torch.stack(
        [torch.stack([cosine[labels == a][:, labels == b].mean() for a in range(3)]) for b in range(3)]
    )
    expected = 1 - (1 - blocks.diagonal().mean()) / (1 - blocks.mean())
    torch.testing.assert_close(geometry.class_separation(features, labels), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("D", [5, 14])
def test_partition_isotropy_over_both_signs(D):
    features, _ = data(9, D)
    vectors = torch.linalg.eigh(features.T @ features).eigenvectors
    totals = torch.cat([(features @ sign * 1.0).exp().sum(0) for sign in (vectors, -vectors)])
    expected = totals.min() / totals.max()
    torch.testing.assert_close(geometry.partition_isotropy(features), expected, rtol=1e-7, atol=0)
    torch.testing.assert_close(
        geometry.partition_isotropy(features, log=True), expected.log(), rtol=1e-7, atol=0
    )


@pytest.mark.parametrize("name", [*PLAIN, *LABELLED])
def test_order_of_rows_and_names_of_classes_do_not_matter(name):
    features, labels = data()
    order = torch.randperm(40)
    value = call(name, features, labels)
    torch.testing.assert_close(call(name, features[order], labels[order]), value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(call(name, features, 3 - 5 * labels), value, rtol=1e-9, atol=1e-12)
    rotation = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(1)).double()).Q
    if name != "feature_std":  # the only one that looks at single dimensions
        torch.testing.assert_close(call(name, features @ rotation, labels), value, rtol=1e-8, atol=1e-10)
    if name != "partition_isotropy":  # the only one that is not free of scale
        torch.testing.assert_close(call(name, 1e3 * features, labels), value, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", [*PLAIN, *LABELLED])
def test_single_precision_is_kept_and_close(name):
    features, labels = data(300, 12)
    value = call(name, features.float() + 3, labels)
    assert value.dtype == torch.float32
    # Float32 inputs; totals are float64.
    assert value.item() == pytest.approx(call(name, features + 3, labels).item(), rel=1e-4, abs=1e-5)
    assert call(name, features.half(), labels).dtype == torch.float32


@pytest.mark.parametrize("name", [*PLAIN, *LABELLED])
def test_one_row_is_undefined_where_pairs_are_needed(name):
    value = call(name, torch.ones(1, 4), torch.zeros(1, dtype=torch.long))
    assert value.isnan().item() is (name not in {"rankme", "partition_isotropy"})


def test_no_variance_and_no_pair_of_the_kind_are_undefined():
    same, labels = torch.full((6, 4), 0.1), torch.tensor([0, 0, 0, 1, 1, 1])
    for name in ("participation_ratio", "isoscore", "effective_rank", "class_separation", "nc1"):
        assert call(name, same, labels).isnan(), name
    assert geometry.isoscore_star(same, 0.2).item() == pytest.approx(1)
    assert geometry.spectrum_exponent(same, 1, 3).isnan()
    features = data(6)[0]
    for name in ("inter_class_cosine", "class_separation", "nc1"):
        assert call(name, features, torch.zeros(6, dtype=torch.long)).isnan(), name
    for name in ("intra_class_cosine", "alignment"):
        assert call(name, features, torch.arange(6)).isnan(), name
    assert geometry.alignment(features, torch.arange(6), 1).isnan()
    assert geometry.rankme(torch.zeros(3, 4)).isnan()
    assert geometry.isoscore(torch.randn(5, 1)).isnan()


def test_a_narrow_cone_does_not_lose_the_spectrum():
    """Offset 1e4 in single precision: cosine says 1, the centred measures see the rest."""
    features = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0))
    features = (features * 64).round() / 64  # so that the sum below is exact
    shifted = features + 1e4
    assert geometry.average_cosine(shifted) > 0.999
    torch.testing.assert_close(geometry.isoscore(shifted), geometry.isoscore(features), rtol=1e-4, atol=0)


def test_isoscore_star_is_isoscore_without_shrinkage_and_differentiable():
    features, _ = data(12, 4)
    torch.testing.assert_close(
        geometry.isoscore_star(features, 0.0), geometry.isoscore(features), rtol=1e-9, atol=0
    )
    torch.testing.assert_close(geometry.isoscore_star(features, 1.0).item(), 1.0)
    target = torch.diag(torch.tensor([1.0, 2, 3, 4])).double()
    assert torch.autograd.gradcheck(
        lambda x: geometry.isoscore_star(x, 0.3, target), features.requires_grad_()
    )


def test_products_in_half_precision_come_close():
    features = data(2000, 30)[0].float()
    exact, narrow = (geometry.isoscore(features, product_dtype=dtype) for dtype in (None, torch.bfloat16))
    assert narrow.item() == pytest.approx(exact.item(), rel=2e-3)  # 8 bits, errors average out
    assert narrow != exact


def test_feature_std_is_that_of_unit_rows():
    features, _ = data()
    torch.testing.assert_close(
        geometry.feature_std(features), unit_rows(features).std(0).mean(), rtol=1e-10, atol=0
    )
    assert geometry.feature_std(torch.ones(5, 3)) < 1e-12


def test_lidar_counts_what_tells_objects_apart():
    generator = torch.Generator().manual_seed(0)
    objects = (
        torch.randn(60, 1, 8, generator=generator).double()
        * torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 0]).double()
    )
    few = geometry.lidar(objects + 0.01 * torch.randn(60, 5, 8, generator=generator).double())
    assert 2.5 < few.item() < 3.3
    with pytest.raises(InvalidInput, match="2 views"):
        geometry.lidar(torch.zeros(4, 1, 3))


def test_assignment_entropies():
    sure = torch.eye(4)
    result = geometry.assignment_entropies(sure)
    assert result.entropy_of_mean.item() == pytest.approx(math.log(4))
    assert result.mean_entropy.item() == 0
    collapsed = geometry.assignment_entropies(sure[:1].repeat(5, 1))
    assert collapsed.entropy_of_mean.item() == 0


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x, y: geometry.average_cosine(x[0]), "features"),
        (lambda x, y: geometry.average_cosine(x[:0]), "features"),
        (lambda x, y: geometry.average_cosine(y[:, None]), "features"),
        (lambda x, y: geometry.nc1(x, y[:3]), "labels"),
        (lambda x, y: geometry.alignment(x, y.float()), "labels"),
        (lambda x, y: geometry.isoscore_star(x, 1.5), "shrinkage"),
        (lambda x, y: geometry.isoscore_star(x, 0.5, torch.eye(3)), "target"),
        (lambda x, y: geometry.spectrum_exponent(x, 0, 3), "first"),
        (lambda x, y: geometry.spectrum_exponent(x, 2, 8), "last"),
        (lambda x, y: geometry.assignment_entropies(x[0]), "p has"),
    ],
)
def test_errors_name_the_argument(function, named):
    with pytest.raises(InvalidInput, match=named):
        function(*data())
