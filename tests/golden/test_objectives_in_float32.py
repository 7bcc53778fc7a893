"""The golden cases of objectives once more in float32: the dtype is kept, all is finite, values stay near."""

from __future__ import annotations

import numpy
import pytest
import torch
from golden_cases import cases

from fewsight.objectives.assignments import koleo, me_max
from fewsight.objectives.dino import dino_loss
from fewsight.objectives.ibot import ibot_loss
from fewsight.objectives.mae import mae_loss
from fewsight.objectives.masked_clustering import masked_clustering_loss
from fewsight.objectives.moco_v3 import moco_v3_loss
from fewsight.objectives.msn import msn_loss
from fewsight.objectives.simclr import nt_xent
from fewsight.objectives.simmim import simmim_loss
from fewsight.objectives.swav import swav_loss

# Subject -> function, inputs that carry gradient.
OBJECTIVES = {
    "nt_xent": (nt_xent, ("z1", "z2")),
    "moco_v3_loss": (moco_v3_loss, ("q1", "q2")),
    "ibot_loss": (ibot_loss, ("student_cls", "student_patches")),
    "msn_loss": (msn_loss, ("anchors", "prototypes")),
    "swav_loss": (swav_loss, ("scores",)),
    "masked_clustering": (masked_clustering_loss, ("student_cls", "student_patches", "reconstruction")),
    "mae_loss": (mae_loss, ("pred",)),
    "simmim_loss": (simmim_loss, ("reconstruction",)),
    "koleo": (koleo, ("features",)),
    "me_max": (me_max, ("probabilities",)),
    "dino_loss": (dino_loss, ("student",)),
}


def single(case, trained):
    tensors = {name.removesuffix("_1"): case.tensor(name) for name in case.inputs if not name.endswith("_2")}
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    return {name: value.requires_grad_(name in trained) for name, value in tensors.items()}


@pytest.mark.parametrize("subject", OBJECTIVES)
def test_float32(subject):
    found = cases(subject)
    if not hasattr(found[0], "tensor"):
        pytest.skip("golden files are missing: set FEWSIGHT_SHARED")
    for case in found:
        check(subject, case)


def check(subject, case):
    function, trained = OBJECTIVES[subject]
    params = case.params
    params.pop("momentum", None)
    inputs = single(case, trained)
    result = function(**inputs, **params)
    terms = (
        result._asdict()
        if hasattr(result, "_asdict")
        else {"loss": result, "loss_1": result, "result": result}
    )
    losses = {name: term for name, term in terms.items() if term.requires_grad and term.ndim == 0}
    sum({id(term): term for term in losses.values()}.values()).backward()
    for name, term in terms.items():
        assert term.dtype == torch.float32
        assert term.isfinite().all()
        if name in case.outputs:
            # Logits of 1e3 over a temperature of 0.04 leave float32 three digits of a small loss. Distances of
            # duplicates (koleo) are of the order of the epsilon, which float32 keeps.
            numpy.testing.assert_allclose(term.detach(), case.outputs[name], rtol=2e-3, atol=2e-4)
    for name in trained:
        assert inputs[name].grad.dtype == torch.float32
        assert inputs[name].grad.isfinite().all()
