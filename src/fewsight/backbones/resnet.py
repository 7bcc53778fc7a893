"""ResNet-34 as CrossTransformers use it: TensorFlow's padding, output stride 16, batch norm on support moments.

Kaiming He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; the variant of Meta-Dataset's code for
Doersch et al. 2020. At output stride 16 the last stage keeps its grid and dilates instead: a 224 px image becomes
14 x 14 x 512.

Differs from torchvision's ResNet-34: the first stage projects its shortcut too (21,288,896 parameters, not
21,284,672), and at stride 2 an even size is padded by 0 before and 1 after, which shifts features by up to a pixel;
`padding="symmetric"` gives torchvision's. Weights start as a truncated normal of sd 0.1, as published.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fewsight.backbones.backbone import Backbone, Licence, TokenMask
from fewsight.backbones.features import Features, Request
from fewsight.backbones.support_norm import HandedMoments, MomentsPass, SupportBatchNorm, normalise
from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["ResNet34", "basic_block", "resnet34", "stem"]

Padding = Literal["same", "symmetric"]
EPSILON = 1e-5
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # channels, blocks, stride


def _padded(
    maps: Tensor, kernel: int, stride: int, dilation: int, padding: Padding, value: float = 0.0
) -> Tensor:
    """Maps with borders such that a sliding window gives ceil(size / stride) outputs."""
    span = (kernel - 1) * dilation
    borders: list[int] = []
    for size in (maps.shape[3], maps.shape[2]):
        same = max((-(-size // stride) - 1) * stride + span + 1 - size, 0)
        before, after = (same // 2, same - same // 2) if padding == "same" else (span // 2, span // 2)
        borders += [before, after]
    return F.pad(maps, borders, value=value)


def _convolve(maps: Tensor, weight: Tensor, stride: int, dilation: int, padding: Padding = "same") -> Tensor:
    kernel = weight.shape[2]
    if stride == 1:  # both paddings are the same border on each side
        return F.conv2d(maps, weight, None, 1, (kernel - 1) * dilation // 2, dilation)
    return F.conv2d(_padded(maps, kernel, stride, dilation, padding), weight, None, stride, 0, dilation)


def _pool(maps: Tensor, padding: Padding = "same") -> Tensor:
    return F.max_pool2d(_padded(maps, 3, 2, 1, padding, value=-torch.inf), 3, 2)


def _batch_norm(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    var, mean = torch.var_mean(maps, (0, 2, 3), correction=0)
    return normalise(maps, mean, var, weight, bias, EPSILON)


def stem(images: Tensor, conv_weight: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:
    """Convolution 7 x 7 of stride 2, norm by the batch's own moments, ReLU, max pooling 3 x 3 of stride 2.

    Args:
        images: `[N, 3, H, W]`.
        conv_weight: `[C, 3, 7, 7]`.
        norm_weight, norm_bias: `[C]`.

    Returns:
        `[N, C, ceil(ceil(H/2)/2), ceil(ceil(W/2)/2)]`.
    """
    check_shapes(
        images=(images, "N I H W"),
        conv_weight=(conv_weight, "C I k k"),
        norm_weight=(norm_weight, "C"),
        norm_bias=(norm_bias, "C"),
    )
    return _pool(F.relu(_batch_norm(_convolve(images, conv_weight, 2, 1), norm_weight, norm_bias)))


def basic_block(
    images: Tensor,
    conv1_weight: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    conv2_weight: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    project_weight: Tensor | None = None,
    project_norm_weight: Tensor | None = None,
    project_norm_bias: Tensor | None = None,
    *,
    stride: int,
    dilation: tuple[int, int],
) -> Tensor:
    """Two 3 x 3 convolutions with norms by the batch's own moments, plus the shortcut, ReLU.

    Args:
        images: `[N, I, H, W]`.
        conv1_weight: `[O, I, 3, 3]`, with `stride` and the first dilation.
        conv2_weight: `[O, O, 3, 3]`, with stride 1 and the second dilation.
        project_weight: `[O, I, 1, 1]` of the shortcut with `stride`; None for the identity.
        norm1_weight, norm1_bias, norm2_weight, norm2_bias, project_norm_weight, project_norm_bias: `[O]`.

    Returns:
        `[N, O, ceil(H / stride), ceil(W / stride)]`.

    Raises:
        InvalidInput: shapes disagree, or the identity cannot serve as shortcut.
    """
    check_shapes(
        images=(images, "N I H W"),
        conv1_weight=(conv1_weight, "O I 3 3"),
        norm1_weight=(norm1_weight, "O"),
        norm1_bias=(norm1_bias, "O"),
        conv2_weight=(conv2_weight, "O O 3 3"),
        norm2_weight=(norm2_weight, "O"),
        norm2_bias=(norm2_bias, "O"),
    )
    hidden = F.relu(
        _batch_norm(_convolve(images, conv1_weight, stride, dilation[0]), norm1_weight, norm1_bias)
    )
    hidden = _batch_norm(_convolve(hidden, conv2_weight, 1, dilation[1]), norm2_weight, norm2_bias)
    if project_weight is not None and project_norm_weight is not None and project_norm_bias is not None:
        check_shapes(project_weight=(project_weight, "O I 1 1"), images=(images, "N I H W"))
        shortcut = _batch_norm(
            _convolve(images, project_weight, stride, 1), project_norm_weight, project_norm_bias
        )
    elif hidden.shape == images.shape:
        shortcut = images
    else:
        raise InvalidInput(
            f"project_weight is missing: the shortcut must turn {list(images.shape)} into {list(hidden.shape)}."
        )
    return F.relu(hidden + shortcut)


class _Convolution(nn.Conv2d):
    """A convolution without bias that gives ceil(size / stride) outputs."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        stride: int,
        dilation: int,
        padding_rule: Padding,
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, dilation=dilation, bias=False)
        self.padding_rule = padding_rule

    def reset_parameters(self) -> None:
        """A truncated normal of sd 0.1, cut at two deviations."""
        nn.init.trunc_normal_(self.weight, std=0.1, a=-0.2, b=0.2)

    def forward(self, input: Tensor) -> Tensor:
        return _convolve(input, self.weight, self.stride[0], self.dilation[0], self.padding_rule)


class _Block(nn.Module):
    """`basic_block` with parameters and batch norm on support moments."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: int,
        dilation: tuple[int, int],
        project: bool,
        **rule: Any,
    ) -> None:
        super().__init__()
        running, padding = rule["use_running_moments"], rule["padding"]
        self.conv1 = _Convolution(channels_in, channels_out, 3, stride, dilation[0], padding)
        self.norm1 = SupportBatchNorm(channels_out, use_running_moments=running)
        self.conv2 = _Convolution(channels_out, channels_out, 3, 1, dilation[1], padding)
        self.norm2 = SupportBatchNorm(channels_out, use_running_moments=running)
        self.project: nn.Module | None = None
        if project:
            self.project = _Convolution(channels_in, channels_out, 1, stride, 1, padding)
            self.project_norm = SupportBatchNorm(channels_out, use_running_moments=running)

    def forward(self, maps: Tensor, num_supports: int | MomentsPass | None = None) -> Tensor:
        shortcut = maps if self.project is None else self.project_norm(self.project(maps), num_supports)
        hidden = F.relu(self.norm1(self.conv1(maps), num_supports))
        return F.relu(self.norm2(self.conv2(hidden), num_supports) + shortcut)


class ResNet34(Backbone):
    """Images `[B, 3, H, W]` -> patches `[B, ceil(H/stride), ceil(W/stride), 512]`; no class token.

    Args:
        output_stride: 16 keeps the grid of the third stage (CrossTransformers), 32 is the usual network.
        use_running_moments: batch norm at test by running averages (CrossTransformers) or by support moments.
        padding: TensorFlow's `same`, or torchvision's `symmetric`.
        transform: preprocessing; as published, squashed to 224 x 224 and scaled to [-1, 1].
    """

    name = "resnet34-s16"
    dim = 512
    depth = 0
    num_heads = 0
    licence = Licence("Apache-2.0", True, "weights are yours: this network is trained from scratch")
    pooling = "patches"

    def __init__(
        self,
        output_stride: int = 16,
        *,
        use_running_moments: bool = True,
        padding: Padding = "same",
        transform: Transform | None = None,
    ) -> None:
        super().__init__()
        if output_stride not in (16, 32):
            raise InvalidInput(f"output_stride is {output_stride}; expected 16 or 32.")
        if padding not in ("same", "symmetric"):
            raise InvalidInput(f"padding is {padding!r}; expected 'same' or 'symmetric'.")
        self.stride, self.padding, self.use_running_moments = output_stride, padding, use_running_moments
        half = (0.5, 0.5, 0.5)
        self.transform = transform or Transform(mode="squash", interpolation="bilinear", mean=half, std=half)
        self.conv = _Convolution(3, 64, 7, 2, 1, padding)
        self.norm = SupportBatchNorm(64, use_running_moments=use_running_moments)
        self.blocks = nn.ModuleList(_blocks(output_stride, use_running_moments, padding))

    @property
    def couples_images(self) -> bool:  # type: ignore[override]
        """Whether moments of the batch join its images: in training, and at test without running moments."""
        return self.training or not self.use_running_moments

    def maps(self, images: Tensor, num_supports: int | MomentsPass | None = None) -> Tensor:
        """Feature maps `[B, 512, h, w]` of images of which the first `num_supports` (None: all) set the moments."""
        check_shapes(images=(images, "B 3 H W"))
        maps = self._stem(images, num_supports)
        for block in self.blocks:
            maps = block(maps, num_supports)
        return maps

    def _stem(self, images: Tensor, num_supports: int | MomentsPass | None) -> Tensor:
        return _pool(F.relu(self.norm(self.conv(images), num_supports)), self.padding)

    def encode_supports(self, images: Tensor, *, over_ranks: bool = False) -> tuple[Features, HandedMoments]:
        """Features of the supports in training, and the moments of each norm `[2, C]`, with gradients.

        Only what lies between the stem and the 16 blocks is kept; the backward pass computes each again, all
        supports at once, since every norm needs them all: 7.2 MB an image at 224 pixels.

        Args:
            over_ranks: the supports are spread over all ranks, and the moments are those of all.
        """
        check_shapes(images=(images, "B 3 H W"))
        handing = MomentsPass({}, given=False, over_ranks=over_ranks)
        maps = checkpoint(self._stem, images, handing, use_reentrant=False)
        for block in self.blocks:
            maps = checkpoint(block, maps, handing, use_reentrant=False)
        return Features(patches=maps.permute(0, 2, 3, 1)), handing.handed

    def encode_queries(self, images: Tensor, handed: HandedMoments) -> Features:
        """Features of queries, normed by moments that `encode_supports` handed out."""
        return Features(patches=self.maps(images, MomentsPass(handed, given=True)).permute(0, 2, 3, 1))

    def features(
        self, images: Tensor, request: Request = Request(), mask: TokenMask | None = None
    ) -> Features:
        """Patch tokens.

        Raises:
            InvalidInput: a mask, blocks, attention or keys were asked for.
        """
        if mask is not None or request != Request():
            raise InvalidInput(
                f"{self.name} has no tokens to mask, no blocks, attention or keys; choose a vision transformer."
            )
        return Features(patches=self.maps(images).permute(0, 2, 3, 1))

    def encode_episode(
        self, support: Tensor, query: Tensor, request: Request = Request()
    ) -> tuple[Features, Features]:
        """Features of supports and queries, normalised by the moments of the supports."""
        if request != Request() or support.shape[1:] != query.shape[1:]:
            return super().encode_episode(support, query, request)
        patches = self.maps(torch.cat([support, query]), len(support)).permute(0, 2, 3, 1)
        return Features(patches=patches[: len(support)]), Features(patches=patches[len(support) :])


def _blocks(output_stride: int, use_running_moments: bool, padding: Padding) -> list[_Block]:
    """The 16 blocks; a stage that would pass the output stride dilates from its second convolution on instead."""
    blocks, channels_in, net_stride, dilation = [], 64, 4, 1
    for channels, count, stride in STAGES:
        later = dilation
        if net_stride * stride > output_stride:
            later, stride = dilation * stride, 1
        net_stride *= stride
        for number in range(count):
            first = number == 0
            blocks.append(
                _Block(
                    channels_in,
                    channels,
                    stride if first else 1,
                    (dilation if first else later, later),
                    first,
                    use_running_moments=use_running_moments,
                    padding=padding,
                )
            )
            channels_in = channels
        dilation = later
    return blocks


def resnet34(output_stride: int = 16, **settings: Any) -> ResNet34:
    """A fresh ResNet-34; see `ResNet34` for the settings.

    >>> sum(parameter.numel() for parameter in resnet34(16).parameters())
    21288896
    """
    return ResNet34(output_stride, **settings)
