"""ResNet-34 and batch norm on support moments against the original code."""

import math
from functools import cache

import pytest
import torch
from golden_cases import cases
from torch import nn

from fewsight.backbones.resnet import basic_block, resnet34, stem
from fewsight.backbones.support_norm import support_batch_norm

STAGES = (64, 128, 256, 512)


@cache
def network(output_stride):
    return resnet34(output_stride=output_stride)


@pytest.mark.parametrize("case", cases("resnet34_s16"), ids=str)
def test_counts_and_shapes(case):
    net = network(case.params["output_stride"])
    hooks = []
    convolutions, norms, last = [0] * 5, [0] * 5, {}

    def watch(module, inputs, output):
        stage = 0 if module.kernel_size == (7, 7) else 1 + STAGES.index(module.out_channels)
        convolutions[stage] += module.weight.numel()
        norms[stage] += 2 * module.out_channels
        last[stage] = (module, output)

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(watch))
    height, width = case.params["image_size"]
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, height, width))
    for hook in hooks:
        hook.remove()
    outputs = [last[stage] for stage in range(5)]
    case.check(
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        stage_parameters=[a + b for a, b in zip(convolutions, norms, strict=True)],
        stage_convolution_parameters=convolutions,
        stage_channels=[output.shape[1] for _, output in outputs],
        stage_height=[output.shape[2] for _, output in outputs],
        stage_width=[output.shape[3] for _, output in outputs],
        # 84 px at stride 16 gives 6 rows: the nominal stride is the next power of two.
        stage_stride=[2 ** math.ceil(math.log2(height / output.shape[2])) for _, output in outputs],
        stage_dilation=[module.dilation[0] for module, _ in outputs],
    )


@pytest.mark.parametrize("case", cases("resnet34_s16_block"), ids=str)
def test_block(case):
    tensors = {name: case.tensor(name, grad=True) for name in case.inputs if name != "cotangent"}
    features = basic_block(**tensors, stride=case.params["stride"], dilation=tuple(case.params["dilation"]))
    (features * case.tensor("cotangent")).sum().backward()
    case.check(features=features, **{f"grad_{name}": tensor.grad for name, tensor in tensors.items()})


@pytest.mark.parametrize("case", cases("resnet34_s16_stem"), ids=str)
def test_stem(case):
    case.check(features=stem(**{name: case.tensor(name) for name in case.inputs}))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", cases("support_batchnorm"), ids=str)
def test_support_batch_norm(case, dtype):
    names = ("supports", "queries", "weight", "bias", "running_mean", "running_var")
    tensors = {name: case.tensor(name).to(dtype).requires_grad_(name in names[:4]) for name in names}
    result = support_batch_norm(**tensors, **case.params)
    loss = (result.supports * case.tensor("cotangent_supports").to(dtype)).sum()
    loss = loss + (result.queries * case.tensor("cotangent_queries").to(dtype)).sum()
    loss.backward()
    results = {**result._asdict(), **{f"grad_{name}": tensors[name].grad for name in names[:4]}}
    if dtype == torch.float64:
        case.check(**results)
        return
    for name, expected in case.outputs.items():
        assert results[name].dtype == dtype
        # Single precision comes within 1 % of the largest value, also at mean 1000 and deviation 1.
        difference = (results[name].detach() - torch.as_tensor(expected)).abs().max()
        assert difference <= 0.01 * torch.as_tensor(expected).abs().max() + 1e-5
