"""The shared patch term equals the published functions, and its centre is that of all teacher patches."""

from __future__ import annotations

import pytest
import torch

from fewsight.objectives.assignments import assign_patches, update_center
from fewsight.objectives.collapse import CollapseAvoidance
from fewsight.objectives.cross_entropy import mean_cross_entropy
from fewsight.objectives.ibot import masked_patch_loss
from fewsight.objectives.patch_clustering import patch_term
from fewsight.objectives.projection_heads import ClusterHead

G, B, N, D, P = 2, 3, 4, 8, 6


@pytest.mark.parametrize("which", ["masked", "all"])
@pytest.mark.parametrize("method", ["none", "centring", "sinkhorn"])
def test_equals_the_published_terms(which, method):
    torch.manual_seed(0)
    student, teacher = (ClusterHead(D, 5, patch_prototypes=P, hidden=8, bottleneck=4).double() for _ in "ab")
    own, other = torch.randn(G, B, N, D).double().requires_grad_(True), torch.randn(G, B, N, D).double()
    mask = torch.rand(G, B, N) > 0.5
    mask[0, 0] = False
    avoidance = CollapseAvoidance(P, method).double().train()
    center = None if avoidance.center is None else avoidance.center.clone()
    temperatures = {"student_temperature": 0.1, "teacher_temperature": 0.06}
    loss = patch_term(student, teacher, own, other, mask, avoidance, **temperatures, which=which)
    student_logits = student.of_patch_rows(student.rows(own))
    teacher_logits = teacher.of_patch_rows(teacher.rows(other)).detach()
    if which == "masked":
        plain = masked_patch_loss(student_logits, teacher_logits, mask, center, 0.1, 0.06, method=method)
    else:
        targets = assign_patches(teacher_logits, method, 0.06, center)
        plain = mean_cross_entropy(student_logits, targets, 0.1)
    torch.testing.assert_close(loss, plain)
    got, wanted = (torch.autograd.grad(value, own, retain_graph=True)[0] for value in (loss, plain))
    torch.testing.assert_close(got, wanted)
    if center is not None:
        avoidance.after_step()
        torch.testing.assert_close(avoidance.center, update_center(center, teacher_logits, 0.9))
