"""The teacher: MobileNetV2 with its ImageNet weights, read into our own trunk with the batch norms folded in."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from fewsight.backbones.mobilenet_v2 import InvertedResidual, SamePaddedConv, Trunk

EPSILON = 1e-5  # of the teacher's batch norms


class Teacher(nn.Module):
    """The trunk (dilated to stride 16, or as published at 32) and the last 1x1 convolution, for images in -1..1."""

    def __init__(self, path: Path, stride: int = 16) -> None:
        super().__init__()
        self.trunk = Trunk(stride)
        self.head = SamePaddedConv(320, 1280, 1)
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
        load_trunk(self.trunk, tensors)
        _fold(self.head, tensors, "conv_head.weight", "bn2")
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps after stage 4 (96 channels), after the trunk (320), and of the head (1280)."""
        early = self.trunk.until(images, 5)
        late = self.trunk.beyond(early, 5)
        return early, late, F.relu6(self.head(late))


def load_trunk(trunk: Trunk, tensors: dict[str, Tensor]) -> None:
    """Copy the teacher's convolutions, named as timm names them, with their batch norms folded in."""
    _fold(trunk.stem, tensors, "conv_stem.weight", "bn1")
    for i, stage in enumerate(trunk.stages):
        for j, residual in enumerate(stage):
            _load_residual(residual, tensors, f"blocks.{i}.{j}.")


def _load_residual(residual: InvertedResidual, tensors: dict[str, Tensor], prefix: str) -> None:
    if residual.expand is None:
        pairs = [(residual.depthwise, "conv_dw", "bn1"), (residual.project, "conv_pw", "bn2")]
    else:
        pairs = [
            (residual.expand, "conv_pw", "bn1"),
            (residual.depthwise, "conv_dw", "bn2"),
            (residual.project, "conv_pwl", "bn3"),
        ]
    for layer, convolution, norm in pairs:
        _fold(layer, tensors, f"{prefix}{convolution}.weight", prefix + norm)


@torch.no_grad()
def _fold(layer: nn.Conv2d, tensors: dict[str, Tensor], weight: str, norm: str) -> None:
    scale = tensors[f"{norm}.weight"] / (tensors[f"{norm}.running_var"] + EPSILON).sqrt()
    layer.weight.copy_(tensors[weight] * scale[:, None, None, None])
    assert layer.bias is not None
    layer.bias.copy_(tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale)
