"""Known pitfalls of self-supervised training, each with the check that catches it.

Numbers are those of the project's list. Checked elsewhere: 2, 16, 19, 44 `tests/training`; 3 `test_scaling.py`; 4, 27,
28, 43 `test_two_processes.py`; 7 `test_dino.py`; 18 `tests/workflows/test_pretrain.py`; 20, 36
`tests/training/test_view_source.py`; 21, 37 `tests/data/test_pipelines.py`; 22 to 24 `tests/golden`; 25
`tests/workflows/test_pretrain_choice.py`; 30 `test_simclr.py`; 31 `tests/golden/test_msn_loss.py`; 32
`tests/golden/test_ibot_loss.py`; 39 `tests/training/test_watch.py`.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from fewsight.backbones.architectures import untrained_backbone
from fewsight.errors import InvalidInput
from fewsight.objectives.dino import Dino, DinoSettings
from fewsight.objectives.gmml import CorruptionSettings, Gmml, GmmlSettings, corrupted
from fewsight.objectives.ibot import Ibot, IbotSettings
from fewsight.objectives.masked_clustering import MaskedClustering, MaskedClusteringSettings
from fewsight.objectives.objective import Batch, Objective, Progress
from fewsight.objectives.simmim import SimMim, SimMimSettings
from fewsight.objectives.swav import SwavSettings
from fewsight.training.parameter_groups import parameter_groups
from fewsight.training.settings import TrainingSettings
from objectives.tiny import CLUSTER, SETTINGS, batch, made, network

CENTRED = [
    (name, replace(SETTINGS[name][1], collapse="centring")) for name in ("dino", "msn", "swav", "ibot")
]


def optimiser_step(
    objective: Objective, step: int, optimiser: torch.optim.Optimizer, total: int = 10
) -> None:
    objective.train()
    objective.before_step(Progress(step, total))
    optimiser.zero_grad(set_to_none=True)
    objective.backward(batch(objective, step=step))
    optimiser.step()
    objective.after_step(Progress(step + 1, total))


def adamw(objective: Objective, **settings: float) -> torch.optim.AdamW:
    return torch.optim.AdamW((p for p in objective.parameters() if p.requires_grad), 1e-2, **settings)


@pytest.mark.parametrize("name", ["dino", "ibot", "msn"])
def test_pitfall_1_steps_under_autocast_stay_finite(name):
    objective = made(name)
    optimiser = adamw(objective)
    for step in range(25):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            optimiser_step(objective, step, optimiser, total=25)
    assert all(torch.isfinite(value).all() for value in objective.state_dict().values())


@pytest.mark.parametrize(("name", "settings"), CENTRED, ids=[name for name, _ in CENTRED])
def test_pitfall_5_the_centre_moves_once_a_step_and_never_in_evaluation(name, settings):
    objective = made(name, settings)
    center = objective.avoidance.center
    before = center.clone()
    objective.before_step(Progress(0, 10))
    objective.eval()
    objective(batch(objective))
    objective.avoidance.after_step()
    assert torch.equal(center, before), "evaluation does not count"
    objective.train()
    for micro in range(2):
        objective.backward(batch(objective, step=micro), 0.5)
    assert torch.equal(center, before), "the loss never moves it"
    objective.avoidance.after_step()
    assert not torch.equal(center, before)
    moved = center.clone()
    objective.avoidance.after_step()
    assert torch.equal(center, moved), "nothing is counted twice"


def test_pitfall_5_accumulation_gives_the_centre_of_the_whole_batch():
    centers = []
    for parts in (1, 2):
        objective = made("dino", replace(SETTINGS["dino"][1], collapse="centring")).train()
        objective.before_step(Progress(0, 10))
        for part in range(parts):
            objective(batch(objective, 8 // parts, first=part * 8 // parts))
        objective.avoidance.after_step()
        centers.append(objective.avoidance.center)
    torch.testing.assert_close(centers[1], centers[0], rtol=1e-5, atol=1e-7)


def test_pitfall_6_centre_and_queue_are_in_the_checkpoint():
    assert "avoidance.center" in made("dino").state_dict()
    assert {"avoidance.center", "patch_avoidance.center"} <= set(made("ibot").state_dict())
    assert {"queue", "queued", "prototypes"} <= set(made("swav").state_dict())


@pytest.mark.parametrize("name", ["moco_v3", "dino", "msn", "ibot", "masked_clustering"])
def test_pitfall_8_the_teacher_is_not_in_the_optimiser(name):
    objective = made(name)
    teacher = {id(parameter) for parameter in objective.teacher.parameters()}
    groups = parameter_groups(objective, TrainingSettings(steps=1))
    assert not teacher & {id(parameter) for group in groups for parameter in group["params"]}


@pytest.mark.parametrize("name", ["dino", "ibot", "masked_clustering"])
def test_pitfall_9_the_teacher_moves_by_a_share_of_the_students_way(name):
    objective = made(name)
    start = copy.deepcopy(objective.teacher.network.state_dict())
    optimiser_step(objective, 0, adamw(objective))
    m = objective.settings.momentum
    student = objective.student.state_dict()
    for key, value in objective.teacher.network.named_parameters():
        torch.testing.assert_close(value, m * start[key] + (1 - m) * student[key], rtol=1e-5, atol=1e-7)


def test_pitfall_10_the_teacher_has_no_drop_path():
    objective = made("dino", DinoSettings(**{**CLUSTER, "drop_path": 0.9})).train()
    views = batch(objective).images
    first, second = objective.teacher(views[:2]), objective.teacher(views[:2])
    assert torch.equal(first, second)
    assert not torch.equal(objective.student(views[:2]), objective.student(views[:2])), "the student has"


def test_pitfall_11_the_average_moves_once_a_step_under_accumulation():
    objective = made("ibot").train()
    for step in range(3):
        objective.before_step(Progress(step, 10))
        for micro in range(4):
            objective.backward(batch(objective, 4, step=4 * step + micro), 0.25)
        objective.after_step(Progress(step + 1, 10))
    assert int(objective.teacher.moves) == 3


def test_pitfall_12_weight_normalised_layers_copy_and_keep_published_names():
    objective = made("dino")
    copied = copy.deepcopy(objective)
    assert "student.head.last_layer.weight_g" in objective.state_dict()
    assert "student.head.last_layer.weight_v" in objective.state_dict()
    views = batch(objective).images
    assert torch.equal(copied.student(views[:1]), objective.student(views[:1]))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Dino, DinoSettings(**{**CLUSTER, "frozen_prototypes": 0.3}, learn_scale=True)),
        (Ibot, IbotSettings(**{**CLUSTER, "frozen_prototypes": 0.3}, patch_prototypes=10)),
        (
            MaskedClustering,
            MaskedClusteringSettings(**{**CLUSTER, "frozen_prototypes": 0.3}, patch_prototypes=10),
        ),
    ],
)
def test_pitfalls_13_and_14_frozen_prototypes_stay_bit_for_bit(kind, settings):
    objective = kind(network(), settings)
    head = objective.student.head
    layers = [layer for layer in (head.last_layer, head.patch_layer) if layer is not None]
    before = [layer.weight_v.detach().clone() for layer in layers]
    optimiser = adamw(objective, weight_decay=0.5)
    for step in range(3):  # fractions 0, 0.1, 0.2 of the run
        optimiser_step(objective, step, optimiser)
        assert all(layer.weight_v.grad is None for layer in layers)
    assert all(torch.equal(layer.weight_v, old) for layer, old in zip(layers, before, strict=True))
    optimiser_step(objective, 3, optimiser)
    assert not any(torch.equal(layer.weight_v, old) for layer, old in zip(layers, before, strict=True))


def test_pitfall_15_scales_of_prototypes_are_fixed_unless_asked_for():
    fixed, learnt = made("dino"), made("dino", DinoSettings(**CLUSTER, learn_scale=True))
    for objective, trained in ((fixed, False), (learnt, True)):
        assert objective.student.head.last_layer.weight_g.requires_grad is trained
        optimiser_step(objective, 0, adamw(objective, weight_decay=0.5))
        scale = objective.student.head.last_layer.weight_g
        assert bool((scale == 1).all()) is not trained


def test_pitfall_15_what_does_not_decay_is_as_published():
    objective = made("msn")
    groups = parameter_groups(objective, TrainingSettings(steps=1, weight_decay=0.1))
    plain = {id(parameter) for group in groups if not group["decays"] for parameter in group["params"]}
    names = {name for name, parameter in objective.named_parameters() if id(parameter) in plain}
    assert "prototypes" in names
    assert "student.backbone.model.pos_embed" not in names, "the published rule goes by rank alone"
    others = names - {"prototypes"}
    assert all(name.endswith(".bias") or ".norm" in name or "head." in name for name in others), others


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("total", [1, 3, 100])
def test_pitfall_17_a_warm_up_never_outlasts_the_run(share, total):
    objective = made("dino", DinoSettings(**{**CLUSTER, "temperature_warmup": share}))
    temperatures = []
    for step in range(total):
        objective.before_step(Progress(step, total))
        temperatures.append(objective.temperature)
    assert temperatures[-1] == objective.settings.teacher_temperature
    assert temperatures == sorted(temperatures)


def test_pitfall_26_repeated_photos_do_not_pull_on_koleo():
    gradients = []
    for weight in (0.1, 0.0):
        objective = made("dino", replace(SETTINGS["dino"][1], koleo_weight=weight)).train()
        objective.before_step(Progress(0, 10))
        views = batch(objective)
        repeated = Batch(images=tuple(view[:1].expand(4, -1, -1, -1) for view in views.images))
        terms = objective.backward(repeated)
        gradients.append([p.grad for p in objective.parameters() if p.grad is not None])
        if weight:
            assert terms.values["koleo"] == 0, "one of each is left, which has no neighbour"
    torch.testing.assert_close(gradients[0], gradients[1])


def test_pitfall_29_prototypes_are_unit_rows_and_the_queue_waits_until_it_is_full():
    objective = made("swav", replace(SETTINGS["swav"][1], queue=20)).train()
    optimiser = adamw(objective)
    for step in range(3):
        assert (objective._queue_scores() is None) == (step * 8 < 20), "zeros are never used"
        optimiser_step(objective, step, optimiser)
        objective(batch(objective, step=9))
        objective.queued -= 8  # the look just taken
        torch.testing.assert_close(objective.prototypes.norm(dim=1), torch.ones(12))
    late = made("swav", SwavSettings(**{**vars(SETTINGS["swav"][1]), "queue_start": 0.5})).train()
    late.before_step(Progress(0, 10))
    late(batch(late))
    assert int(late.queued) == 0, "the queue starts later"


def test_pitfall_33_small_views_never_see_masks():
    objective = made("ibot").train()
    seen = []
    features = objective.student.backbone.features

    def spied(images, request=None, mask=None):
        seen.append((images.shape[-1], None if mask is None else mask.hidden.shape[0]))
        return features(images, mask=mask)

    objective.student.backbone.features = spied
    objective(batch(objective))
    assert seen == [(32, 16), (16, None)]


def test_pitfall_34_the_target_is_the_clean_picture():
    objective = made("gmml").train()
    views = batch(objective)
    clean = views.images[0]
    objective.decoder = torch.nn.Module()
    objective.decoder.forward = lambda patches: clean  # a network that knows the clean picture
    assert objective(views).total.item() == 0


@pytest.mark.parametrize("fill", ["zeros", "noise"])
def test_pitfall_35_the_mask_is_where_pixels_may_differ(fill):
    objective = made("gmml")
    views = batch(objective, images=6)
    for settings in (
        CorruptionSettings(fill=fill),
        CorruptionSettings(fill=fill, replace_probability=1.0, align=1),
    ):
        spoilt = corrupted(views.images[0], views, settings, patch_size=8)
        differs = (spoilt.images != views.images[0]).any(1)
        assert torch.equal(differs, spoilt.mask), "continuous pixels: every overwritten one differs"
        assert spoilt.mask.flatten(1).any(1).all()


def test_pitfall_35_whole_tokens_are_corrupted_by_default():
    objective = made("gmml")
    spoilt = corrupted(*(batch(objective).images), batch(objective), CorruptionSettings(), patch_size=8)
    cells = spoilt.mask.unflatten(1, (4, 8)).unflatten(3, (4, 8))
    assert torch.equal(cells.any(2).any(-1), cells.all(2).all(-1))


@pytest.mark.parametrize("name", ["mae", "simmim", "gmml", "ibot", "masked_clustering"])
def test_pitfall_36_masks_follow_seed_step_and_photo(name):
    objective = made(name).eval()
    views = batch(objective, images=4)

    def losses(**changes: int) -> float:
        return objective(replace(views, **changes)).total.item()

    assert losses() == losses()
    assert losses(step=1) != losses()
    assert losses(seed=6) != losses()


def test_pitfall_38_batch_norm_over_few_rows_is_told(capsys):
    import fewsight.progress as progress

    progress._said.clear()
    objective = made("simclr").train()
    objective(batch(objective, images=3))
    assert "6 rows" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dino", "msn", "ibot", "masked_clustering"])
def test_pitfall_40_the_teachers_backbone_is_kept(name):
    objective = made(name)
    assert objective.backbone() is objective.teacher.network.backbone
    assert objective.trained_backbone() is objective.student.backbone


def test_pitfall_41_small_views_must_be_whole_patches():
    with pytest.raises(InvalidInput, match="take 24"):
        Dino(network(), DinoSettings(**{**CLUSTER, "local_size": 23}))
    chosen = Dino(network(), DinoSettings(**{**CLUSTER, "local_size": None}))
    assert chosen.views[-1].size % 8 == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda backbone: SimMim(backbone, SimMimSettings()),
        lambda backbone: Ibot(backbone, IbotSettings(**CLUSTER)),
        lambda backbone: Gmml(backbone, GmmlSettings())(Batch(images=(torch.zeros(2, 3, 32, 32),))),
    ],
)
def test_pitfall_42_networks_without_tokens_are_refused(make):
    with pytest.raises(InvalidInput, match="no vision transformer"):
        make(untrained_backbone("conv4", image_size=32))


def test_collapsed_student_has_the_loss_that_alarms_expect():
    objective = made("dino", replace(SETTINGS["dino"][1], collapse="none", koleo_weight=0.0)).train()
    for head in (objective.student.head, objective.teacher.network.head):
        torch.nn.init.zeros_(head.mlp[-1].weight)
        torch.nn.init.zeros_(head.mlp[-1].bias)
    objective.before_step(Progress(0, 10))
    loss = objective(batch(objective)).values["class"].item()
    assert loss == pytest.approx(math.log(12), rel=1e-5)
    assert objective.watched()["collapsed_loss"].item() == pytest.approx(math.log(12), rel=1e-6)
