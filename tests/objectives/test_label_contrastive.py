"""The label-aware contrastive loss: plain loops as oracle, closed values, invariants, blocks, extremes, errors."""

import math
import multiprocessing

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from fewsight.backbones.conv4 import Conv4
from fewsight.errors import InvalidInput
from fewsight.objectives import anchor_losses as blocked
from fewsight.objectives.label_contrastive import (
    LabelContrastive,
    LabelContrastiveSettings,
    anchor_losses,
    label_contrastive_loss,
)
from fewsight.objectives.objective import Batch


def views(N=6, V=2, D=5, seed=0, unit=True):
    x = torch.randn(N, V, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(x, dim=2) if unit else x


LABELS = torch.tensor([3, 3, 8, 3, 8, 5])


def oracle(features, labels, temperature, variant, anchors, singletons, beta):
    """Anchor by anchor, as the formulas stand."""
    N, V, _ = features.shape
    z, y = features.flatten(0, 1), labels.repeat_interleave(V)
    losses = []
    for i in range(0, N * V, V if anchors == "first" else 1):
        s, others = z @ z[i] / temperature, torch.arange(N * V) != i
        p, n = s[others & (y == y[i])], s[others & (y != y[i])]
        if not len(p):
            losses += [s.sum() * 0] if singletons == "zero" else []
            continue
        negatives = n.exp().sum()
        if beta and len(n):
            negatives = len(n) * ((1 + beta) * n).exp().sum() / (beta * n).exp().sum()
        log_all = (p.exp().sum() + negatives).log()
        losses.append(log_all - (p.mean() if variant == "out" else p.exp().mean().log()))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("beta", [0.0, 1.5])
@pytest.mark.parametrize("singletons", ["skip", "zero"])
@pytest.mark.parametrize("anchors", ["all", "first"])
@pytest.mark.parametrize("variant", ["out", "in"])
@pytest.mark.parametrize("V", [1, 3])
def test_equals_the_formulas(variant, anchors, singletons, beta, V, monkeypatch):
    monkeypatch.setattr(blocked, "_block_rows", lambda vectors: 4)  # several blocks, the last one short
    results = []
    for function in (oracle, label_contrastive_loss):
        x = views(V=V).requires_grad_()
        names = "temperature", "variant", "anchors", "singletons", "hard_negative_beta"
        settings = dict(zip(names, (0.3, variant, anchors, singletons, beta), strict=True))
        loss = (
            oracle(x, LABELS, *settings.values()) if function is oracle else function(x, LABELS, **settings)
        )
        loss.backward()
        results.append((loss, x.grad))
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "settings", [{}, {"variant": "in"}, {"hard_negative_beta": 0.5}, {"normalize": True}]
)
def test_gradcheck(settings):
    x = views(N=4, D=3, unit=False).requires_grad_()
    labels = torch.tensor([0, 1, 0, 2])
    assert torch.autograd.gradcheck(
        lambda z: label_contrastive_loss(z, labels, temperature=0.7, **settings), x
    )


@pytest.mark.parametrize("variant", ["out", "in"])
def test_collapsed_features_give_the_logarithm_of_the_others(variant):
    same = F.normalize(torch.ones(6, 2, 5), dim=2)
    loss = label_contrastive_loss(same, LABELS, variant=variant)
    assert loss.item() == pytest.approx(math.log(11), rel=1e-6)


def test_floor_of_separated_classes():
    """Positives at cosine 1, negatives at -1/(K-1): the floor is about log |P|, not 0."""
    K, n, tau = 4, 3, 0.1
    corners = (
        F.normalize(torch.eye(K).double() - 1 / K, dim=1).repeat_interleave(n, 0)[:, None].repeat(1, 2, 1)
    )
    loss = label_contrastive_loss(corners, torch.arange(K).repeat_interleave(n), temperature=tau)
    positives, negatives = 2 * n - 1, 2 * n * (K - 1)
    gap = math.exp(-(1 + 1 / (K - 1)) / tau)
    assert loss.item() == pytest.approx(
        math.log(positives) + math.log1p(negatives / positives * gap), rel=1e-9
    )


def test_order_names_and_rotation_do_not_matter():
    x = views()
    loss = label_contrastive_loss(x, LABELS)
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    for other in (
        label_contrastive_loss(x[order], LABELS[order]),
        label_contrastive_loss(x.flip(1), LABELS),
        label_contrastive_loss(x, 7 - 2 * LABELS),
        label_contrastive_loss(x @ rotation, LABELS),
        label_contrastive_loss(3 * x, LABELS, normalize=True),
    ):
        torch.testing.assert_close(other, loss, rtol=1e-10, atol=0)


def test_base_temperature_is_a_factor():
    x = views()
    plain = label_contrastive_loss(x, LABELS, temperature=0.1)
    torch.testing.assert_close(
        label_contrastive_loss(x, LABELS, temperature=0.1, base_temperature=0.07), plain / 0.7
    )


def test_inner_form_is_never_above_the_outer_one():
    for seed in range(5):
        x = views(seed=seed)
        inner, outer = (label_contrastive_loss(x, LABELS, variant=variant) for variant in ("in", "out"))
        assert inner <= outer + 1e-12
    one_positive = torch.arange(6)
    torch.testing.assert_close(
        *(label_contrastive_loss(views(), one_positive, variant=v) for v in ("in", "out"))
    )


def test_only_singletons_give_zero_connected_to_the_graph():
    x = views(V=1).requires_grad_()
    loss = label_contrastive_loss(x, torch.arange(6))
    loss.backward()
    assert loss == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("variant", ["out", "in"])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_large_unnormalised_vectors_stay_finite(variant, beta):
    x = (views(unit=False).float() * 50).requires_grad_()  # logits of 1e4 and more
    loss = label_contrastive_loss(x, LABELS, variant=variant, hard_negative_beta=beta)
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()


def test_half_precision_is_raised_and_autocast_does_not_reach_the_loss():
    x = views().to(torch.bfloat16)
    expected = label_contrastive_loss(x.float(), LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        loss = label_contrastive_loss(x, LABELS)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_gradient_in_half_precision_leaves_the_loss_exact():
    exact, narrow = views().float().requires_grad_(), views().float().requires_grad_()
    first = label_contrastive_loss(exact, LABELS)
    second = label_contrastive_loss(narrow, LABELS, gradient_dtype=torch.bfloat16)
    (first + second).backward()
    assert torch.equal(first, second)
    # bfloat16 keeps 8 bits: products within 1 % of the gradient's norm.
    assert (exact.grad - narrow.grad).norm() < 0.01 * exact.grad.norm()


def test_own_anchors_of_two_processes_add_up_to_the_whole():
    """As the docstring says: each process takes its rows against all vectors, scaled by the global count."""
    whole = views(V=1).flatten(0, 1).requires_grad_()
    loss = label_contrastive_loss(whole[:, None], LABELS)
    loss.backward()
    parts = views(V=1).flatten(0, 1).requires_grad_()
    rows = torch.arange(6).split(3)
    losses = [anchor_losses(parts, LABELS, own, temperature=0.1) for own in rows]
    counted = sum(part.counted for part in losses)
    total = sum(part.total for part in losses) / counted
    total.backward()
    torch.testing.assert_close(total, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-10, atol=1e-14)


SETTINGS = [
    {},
    {"variant": "in", "anchors": "first"},
    {"hard_negative_beta": 1.0, "singletons": "zero", "base_temperature": 0.07},
    {"labels": None, "normalize": True},
]
SHARES = (slice(0, 2), slice(2, 6))  # images of each rank: unequal


def run_settings(rows):
    results = []
    for settings in SETTINGS:
        x = views(unit=False)[rows].requires_grad_()
        labels = LABELS[rows] if "labels" not in settings else None
        loss = label_contrastive_loss(x, **{"labels": labels, **settings})
        loss.backward()
        results.append((loss.detach(), x.grad))
    return results


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(run_settings(SHARES[rank]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_loss_and_gradient_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=work, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for whole, one, other in zip(run_settings(slice(None)), first, second, strict=True):
        torch.testing.assert_close((one[0] + other[0]) / 2, whole[0], rtol=1e-10, atol=0)
        # Each rank's rows: their gradient of the mean over ranks.
        torch.testing.assert_close(torch.cat([one[1], other[1]]) / 2, whole[1], rtol=1e-9, atol=1e-12)


def test_input_is_not_changed():
    x = views()
    before = x.clone()
    label_contrastive_loss(x.requires_grad_(), LABELS).backward()
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"features": torch.zeros(3, 4)}, "features"),
        ({"features": torch.zeros(6, 2, 3, dtype=torch.long)}, "features"),
        ({"features": torch.zeros(0, 2, 3)}, "features"),
        ({"labels": torch.zeros(5, dtype=torch.long)}, "labels"),
        ({"labels": torch.zeros(6)}, "labels"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"base_temperature": -1.0}, "base_temperature"),
        ({"variant": "both"}, "variant"),
        ({"anchors": "some"}, "anchors"),
        ({"singletons": "drop"}, "singletons"),
        ({"hard_negative_beta": -0.1}, "hard_negative_beta"),
    ],
)
def test_errors_name_the_argument(changes, named):
    with pytest.raises(InvalidInput, match=named):
        label_contrastive_loss(**{"features": views(), "labels": LABELS, **changes})


def batch(V=2, rows=slice(None), labels=LABELS):
    pixels = torch.rand(V, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(images=tuple(view[rows] for view in pixels), labels=labels[rows])


def objective(**settings):
    torch.manual_seed(0)
    made = LabelContrastive(Conv4(width=8), LabelContrastiveSettings(projection=5, **settings)).double()
    return made.eval()  # batch norm in training mode would couple the photos of a chunk


def gradients(made, given, scale=1.0):
    made.zero_grad()
    terms = made.backward(given, scale)
    return terms, {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


def test_the_objective_is_the_loss_of_projected_views():
    made, given = objective(variant="in", hard_negative_beta=0.5), batch(V=3)
    projected = torch.stack([made.projector(made.encoder(view)) for view in given.images], 1)
    expected = label_contrastive_loss(
        projected, LABELS, temperature=0.1, variant="in", hard_negative_beta=0.5, normalize=True
    )
    torch.testing.assert_close(made(given).total, expected)
    assert made.backbone() is made.encoder
    plain = LabelContrastive(made.encoder, LabelContrastiveSettings(projection=0))
    assert not list(plain.projector.parameters())


def test_chunks_change_neither_loss_nor_gradient():
    whole, expected = gradients(objective(), batch(), 0.5)
    for chunk in (1, 5, 100):
        terms, found = gradients(objective(chunk=chunk), batch(), 0.5)
        torch.testing.assert_close(terms.total, whole.total)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


def test_equal_features_and_missing_positives_are_said_in_words():
    made = objective()
    assert made.alarm() is None
    made.encoder.forward = lambda images: torch.eye(8, dtype=torch.float64)[LABELS.repeat(2) % 8]
    made(batch())
    assert made.alarm() is None
    torch.nn.init.zeros_(made.projector[2].weight)
    made(batch())
    seen = made.watched()
    assert float(seen["loss"]) == pytest.approx(math.log(11), abs=1e-6)
    assert float(seen["collapsed_loss"]) == pytest.approx(math.log(11))
    assert "all equal" in made.alarm()
    assert "log(2B - 1) = 2.398" in made.alarm()
    lonely = objective()
    lonely(batch(V=1, labels=torch.arange(6)))
    assert "no photo of the batch has a positive" in lonely.alarm()


def test_the_floor_is_the_loss_of_classes_on_points_far_apart():
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    made = objective(temperature=0.01, base_temperature=0.07)
    with torch.no_grad():
        made.encoder.forward = lambda images: torch.eye(8, dtype=torch.float64)[labels.repeat(2)]
        made.projector = torch.nn.Identity()
        made(batch(labels=labels))
    assert float(made.watched()["floor"]) == pytest.approx(math.log(5) / 7, rel=1e-6)
    assert float(made.watched()["loss"]) == pytest.approx(math.log(5) / 7, rel=1e-6)


def work_with_objective(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = []
    for chunk in (0, 2):
        terms, found = gradients(objective(chunk=chunk), batch(rows=SHARES[rank]))
        results.append((terms.total, found))
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_the_objective_on_two_processes_is_that_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=work_with_objective, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    whole, expected = gradients(objective(), batch())
    pairs = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)), strict=True)
    for one, other in pairs:
        torch.testing.assert_close((one[0] + other[0]) / 2, whole.total)
        for name, gradient in expected.items():
            torch.testing.assert_close((one[1][name] + other[1][name]) / 2, gradient, rtol=1e-9, atol=1e-12)


def test_settings_and_batches_that_cannot_work_are_named():
    for wrong in ({"temperature": 0.0}, {"chunk": -1}, {"projection": -1}, {"hard_negative_beta": -1.0}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            LabelContrastiveSettings(**wrong)
    for empty in (Batch(images=batch().images), Batch(labels=LABELS)):
        with pytest.raises(InvalidInput, match="needs labels and at least one view"):
            objective()(empty)
