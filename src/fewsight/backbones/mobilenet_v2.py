"""The convolutions of MobileNetV2 up to its 320 channels, dilated to stride 16.

Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, table 2.
Batch norms are folded into the convolutions (weight and bias), as in the file the weights started from.

Differs from the paper: the last stage that halves the resolution keeps it, and the depthwise convolutions after
it are dilated by 2, so that the map has stride 16 in place of 32. Padding is TensorFlow's ("SAME": on stride 2
the extra pixel lies right and below), which the weights were trained with.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["InvertedResidual", "SamePaddedConv", "Trunk"]

# Table 2 of the paper: expansion, output channels, repeats, stride of the first.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class SamePaddedConv(nn.Conv2d):
    """A convolution with bias and TensorFlow's "SAME" padding: the output has `ceil(size / stride)` pixels."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve `[B, C, H, W]`."""
        # On stride 1 the padding is the same on both sides and depends on no size: nothing is copied, and a traced
        # graph serves every size.
        spans = [(kernel - 1) * held for kernel, held in zip(self.kernel_size, self.dilation, strict=True)]
        if self.stride == (1, 1) and not any(span % 2 for span in spans):
            padding = (spans[0] // 2, spans[1] // 2)
        else:
            sides = zip(input.shape[2:], self.stride, spans, strict=True)
            (top, bottom), (left, right) = (_same_padding(*side) for side in sides)
            input, padding = F.pad(input, (left, right, top, bottom)), (0, 0)
        return F.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


def _same_padding(size: int, stride: int, span: int) -> tuple[int, int]:
    """Pixels before and behind a side of `size`, for a kernel that spans `span` pixels more than one."""
    missing = span - (size - 1) % stride  # the last window begins at the last multiple of the stride
    if not isinstance(missing, int) or missing >= 0:  # a traced size has no sign yet
        return missing // 2, missing - missing // 2
    return 0, 0


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


class InvertedResidual(nn.Module):
    """Expand by 1x1, depthwise 3x3, project by 1x1; ReLU6 after the first two; added to its input where it fits."""

    def __init__(self, dim: int, out: int, *, expansion: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        wide = dim * expansion
        self.expand = SamePaddedConv(dim, wide, 1) if expansion > 1 else None
        self.depthwise = SamePaddedConv(wide, wide, 3, stride=stride, dilation=dilation, groups=wide)
        self.project = SamePaddedConv(wide, out, 1)
        self.adds_input = stride == 1 and dim == out

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `[B, C, H, W]` to `[B, out, H / stride, W / stride]`."""
        wide = maps if self.expand is None else F.relu6(self.expand(maps))
        narrow = self.project(F.relu6(self.depthwise(wide)))
        return maps + narrow if self.adds_input else narrow


class Trunk(nn.Module):
    """Stem and seven stages: images `[B, 3, H, W]` in -1..1 to maps `[B, 320, ceil(H / stride), ceil(W / stride)]`.

    Args:
        stride: 16, or the paper's 32; the weights serve both.

    >>> import torch
    >>> Trunk()(torch.zeros(1, 3, 64, 100)).shape
    torch.Size([1, 320, 4, 7])
    """

    dim = 320

    def __init__(self, stride: int = 16) -> None:
        super().__init__()
        self.stride = stride
        self.stem = SamePaddedConv(3, 32, 3, stride=2)
        self.stages = nn.ModuleList()
        dim, reached, dilation = 32, 2, 1
        for expansion, out, repeats, first in _STAGES:
            stage = nn.Sequential()
            for repeat in range(repeats):
                step, used = (first if repeat == 0 else 1), dilation
                if step * reached > stride:
                    step, dilation = 1, dilation * first  # this one keeps the dilation of the finer map
                reached *= step
                stage.append(InvertedResidual(dim, out, expansion=expansion, stride=step, dilation=used))
                dim = out
            self.stages.append(stage)
        for module in self.modules():
            if isinstance(module, SamePaddedConv) and not module.weight.is_meta:
                nn.init.kaiming_normal_(
                    module.weight
                )  # there are no batch norms to mend the scale of random weights
                nn.init.zeros_(_bias(module))

    def forward(self, images: Tensor) -> Tensor:
        """The last maps."""
        return self.until(images, len(self.stages))

    def until(self, images: Tensor, stage: int) -> Tensor:
        """Maps after the first `stage` stages."""
        return self.beyond(F.relu6(self.stem(images)), 0, stage)

    def beyond(self, maps: Tensor, start: int, stop: int | None = None) -> Tensor:
        """Maps that entered stage `start`, after the stages before `stop`."""
        for stage in self.stages[start:stop]:
            maps = stage(maps)
        return maps
