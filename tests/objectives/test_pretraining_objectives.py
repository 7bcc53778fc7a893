"""What every pretraining objective promises as a module."""

from __future__ import annotations

import copy

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.objectives.objective import Batch, Progress
from objectives.tiny import SETTINGS, batch, made

TEACHERS = ("moco_v3", "dino", "msn", "ibot", "masked_clustering")


def step(objective, number, optimiser=None, total=10):
    objective.train()
    objective.before_step(Progress(number, total))
    optimiser = optimiser or torch.optim.SGD((p for p in objective.parameters() if p.requires_grad), 0.1)
    optimiser.zero_grad(set_to_none=True)
    terms = objective.backward(batch(objective, step=number))
    optimiser.step()
    objective.after_step(Progress(number + 1, total))
    return terms


@pytest.mark.parametrize("name", SETTINGS)
def test_trains_what_it_keeps(name):
    objective = made(name)
    before = copy.deepcopy(objective.trained_backbone().state_dict())
    terms = [step(objective, number) for number in range(3)]
    assert all(torch.isfinite(value).all() for each in terms for value in each.values.values())
    after = objective.trained_backbone().state_dict()
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    assert len(moved) > 10, moved
    kept = objective.backbone()
    assert isinstance(kept(torch.randn(1, 3, 32, 32)), torch.Tensor)


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_repeat_and_resume_from_their_state(name):
    first, second = made(name), made(name, seed=1)
    step(first, 0)
    second.load_state_dict(first.state_dict())
    results = [step(objective, 1) for objective in (first, second)]
    for key, value in results[0].values.items():
        assert torch.equal(value, results[1].values[key]), key
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


@pytest.mark.parametrize("name", TEACHERS)
def test_teacher_gets_no_gradient_and_moves_once_a_step(name):
    objective = made(name)
    step(objective, 0)
    teacher = objective.teacher
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    step(objective, 1)
    assert int(teacher.moves) == 2


@pytest.mark.parametrize("name", SETTINGS)
def test_views_that_are_missing_are_told(name):
    objective = made(name)
    with pytest.raises(InvalidInput, match="views"):
        objective(Batch(images=()))


@pytest.mark.parametrize("name", SETTINGS)
def test_losses_are_float32_and_finite_under_autocast(name):
    objective = made(name).train()
    objective.before_step(Progress(0, 10))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = objective.backward(batch(objective))
    assert all(value.dtype == torch.float32 for value in terms.values.values())
    assert torch.isfinite(terms.total)
    grads = [parameter.grad for parameter in objective.parameters() if parameter.grad is not None]
    assert grads
    assert all(torch.isfinite(grad).all() for grad in grads)
