"""Schedules, parameter groups, optimisers and the weight average."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fewsight.errors import InvalidInput
from fewsight.training.averaging import WeightAverage
from fewsight.training.optimisers import make_optimiser
from fewsight.training.parameter_groups import parameter_groups
from fewsight.training.schedules import learning_rate, scaled_rate, staircase, weight_decay
from fewsight.training.settings import TrainingSettings
from training.test_loop import Regression


def test_warm_up_then_cosine() -> None:
    settings = TrainingSettings(steps=110, learning_rate=2.0, final_learning_rate=0.5, warmup_steps=10)
    rates = [learning_rate(settings, step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    for step in range(10, 110):
        expected = 0.5 + 1.5 * (1 + math.cos(math.pi * (step - 10) / 100)) / 2
        assert rates[step] == pytest.approx(expected)


def test_published_staircase_of_crosstransformers() -> None:
    # 6e-4 times 0.915193802145601 every 2,000 steps is 7.8e-6 in the last 2,000 of 100,000
    settings = TrainingSettings(
        steps=100_000,
        learning_rate=6e-4,
        schedule="staircase",
        decay_steps=2000,
        decay_factor=0.915193802145601,
    )
    assert learning_rate(settings, 1999) == 6e-4
    assert learning_rate(settings, 99_999) == pytest.approx(7.8e-6, rel=0.01)


def test_weight_decay_rises_along_a_cosine() -> None:
    settings = TrainingSettings(steps=100, weight_decay=0.04, final_weight_decay=0.4)
    assert weight_decay(settings, 0) == pytest.approx(0.04)
    assert weight_decay(settings, 50) == pytest.approx(0.22)


def test_vectors_do_not_decay_and_a_frozen_backbone_is_left_out() -> None:
    groups = parameter_groups(Regression(), TrainingSettings(steps=1))
    assert {group["decays"]: {p.ndim for p in group["params"]} for group in groups} == {0: {1}, 1: {2}}
    objective = Regression()
    assert parameter_groups(objective, TrainingSettings(steps=1, backbone_rate=0.0)) == []
    assert not any(parameter.requires_grad for parameter in objective.parameters())


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lars", "lamb"])
def test_optimisers_lower_the_loss(name: str) -> None:
    weights = nn.Parameter(torch.full((4, 4), 2.0))
    settings = TrainingSettings(steps=1, learning_rate=0.05, optimiser=name)
    optimiser = make_optimiser([{"params": [weights], "factor": 1.0, "decays": 1, "lr": 0.05}], settings)
    for _ in range(20):
        optimiser.zero_grad()
        weights.square().sum().backward()
        optimiser.step()
    assert float(weights.detach().abs().max()) < 2.0


def test_unknown_optimiser_and_nothing_to_train_are_named() -> None:
    group = {"params": [nn.Parameter(torch.zeros(1))], "factor": 1.0, "decays": 0}
    with pytest.raises(InvalidInput, match="nonsense"):
        make_optimiser([group], TrainingSettings(steps=1, optimiser="nonsense"))
    with pytest.raises(InvalidInput, match="nothing to train"):
        make_optimiser([], TrainingSettings(steps=1))


def test_weight_average_follows_its_formula() -> None:
    module = nn.Linear(2, 1, bias=False)
    average, expected = WeightAverage(module, 0.9), module.weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            module.weight.add_(1.0)
        average.update(module, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    torch.testing.assert_close(average.tensors["weight"], expected)


def test_average_leaves_frozen_weights_out() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False), nn.BatchNorm1d(2))
    average = WeightAverage(module, 0.9)
    assert set(average.tensors) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    own = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        average.tensors["0.weight"].add_(1)
    with average.in_place(module):
        torch.testing.assert_close(module[0].weight, own["0.weight"] + 1)
    assert all(torch.equal(value, own[name]) for name, value in module.state_dict().items())


def test_cosines_that_are_cut_off_at_the_end_of_the_run() -> None:
    # MSN: 1.25 times the run, so that the last step is at 0.8 of the curve
    settings = TrainingSettings(
        steps=100, learning_rate=1.0, weight_decay=0.04, final_weight_decay=0.4, schedule_stretch=1.25
    )
    expected = (1 + math.cos(math.pi * 0.8)) / 2
    assert learning_rate(settings, 100) == pytest.approx(expected)
    assert weight_decay(settings, 100) == pytest.approx(0.4 + (0.04 - 0.4) * expected)


def test_optimiser_settings_reach_it_or_are_named() -> None:
    group = {"params": [nn.Parameter(torch.zeros(1))], "factor": 1.0, "decays": 0}
    settings = TrainingSettings(steps=1, optimiser="adam", optimiser_settings={"eps": 1e-7})
    assert make_optimiser([group], settings).defaults["eps"] == 1e-7
    for name in ("adam", "lars"):
        wrong = TrainingSettings(steps=1, optimiser=name, optimiser_settings={"nonsense": 1})
        with pytest.raises(InvalidInput, match="nonsense"):
            make_optimiser([dict(group)], wrong)


def test_rates_by_batch_and_staircase() -> None:
    assert scaled_rate(1.5e-4, 4096) == pytest.approx(2.4e-3)  # MoCo-v3
    assert scaled_rate(4e-3, 256, reference=1024, rule="sqrt") == pytest.approx(2e-3)  # DINOv2
    with pytest.raises(InvalidInput, match="at least 1 image"):
        scaled_rate(1.0, 0)
    with pytest.raises(InvalidInput, match="'linear' or 'sqrt'"):
        scaled_rate(1.0, 1, rule="cubic")  # type: ignore[arg-type]
    assert [staircase(1.0, 0.5, 2, step) for step in range(5)] == [1, 1, 0.5, 0.5, 0.25]
