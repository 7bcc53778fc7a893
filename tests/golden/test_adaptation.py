"""Low-rank additions (loralib) and layer-wise decay (timm, BEiT)."""

import pytest
from golden_cases import cases

from fewsight.backbones.lora import lora_linear, lora_qkv, merged_weight
from fewsight.training.layer_decay import layer_scales


@pytest.mark.parametrize("case", cases("lora_linear"), ids=str)
def test_lora(case):
    inputs, down, up = (case.tensor(name, grad=True) for name in ("inputs", "down", "up"))
    weight, bias = case.tensor("weight"), case.tensor("bias") if case.has("bias") else None
    function = lora_qkv if "enabled" in case.params else lora_linear
    outputs = function(inputs, weight, bias, down, up, **case.params)
    (outputs * case.tensor("cotangent")).sum().backward()
    results = {"outputs": outputs, "grad_inputs": inputs.grad, "grad_down": down.grad, "grad_up": up.grad}
    if function is lora_linear:
        results["merged_weight"] = merged_weight(weight, down, up, **case.params)
    case.check(**results)


@pytest.mark.parametrize("case", cases("layer_decay"), ids=str)
def test_layer_decay(case):
    case.check(scales=layer_scales(**case.params))
