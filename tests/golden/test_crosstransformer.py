"""CrossTransformer logits, loss and gradients of the original code."""

import pytest
import torch
import torch.nn.functional as F
from golden_cases import cases

from fewsight.heads.crosstransformer import crosstransformer_logits

INPUTS = ("queries", "supports", "key_weight", "value_weight")


def run(case, memory_mib, dtype=torch.float64):
    tensors = {name: case.tensor(name).to(dtype).requires_grad_() for name in INPUTS}
    logits = crosstransformer_logits(**tensors, labels=case.tensor("labels"), memory_mib=memory_mib)
    loss = F.cross_entropy(logits, case.tensor("query_targets"))
    loss.backward()
    gradients = {f"grad_{name}": tensor.grad for name, tensor in tensors.items()}
    return {"logits": logits, "loss": loss, **gradients}


# The second bound leaves room for one query position at a time, so everything is recomputed in tiles.
@pytest.mark.parametrize("memory_mib", [128.0, 1e-9])
@pytest.mark.parametrize("case", cases("crosstransformer"), ids=str)
def test_golden(case, memory_mib):
    results = run(case, memory_mib)
    assert results["logits"].dtype == torch.float64
    case.check(**results)


@pytest.mark.parametrize("memory_mib", [128.0, 1e-9])
@pytest.mark.parametrize("case", cases("crosstransformer"), ids=str)
def test_float32_within_one_percent(case, memory_mib):
    for name, value in run(case, memory_mib, torch.float32).items():
        expected = torch.as_tensor(case.outputs[name])
        assert value.dtype == torch.float32
        assert value.isfinite().all()
        if name in ("logits", "loss"):
            assert (value - expected).abs().max() <= 0.01 * expected.abs().max() + 1e-6
