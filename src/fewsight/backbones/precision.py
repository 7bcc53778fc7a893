"""A backbone in another number format, and whether its features stay the same there."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone
from fewsight.seeding import torch_generator

__all__ = ["PackedLinear", "agreement", "agrees", "at_precision", "evaluating"]

AGREEMENT = 0.999  # cosine to 32-bit features below which `auto` does not take 16 bits


def agreement(backbone: Backbone, other: Backbone) -> float:
    """The lowest cosine between the features of two number formats, over class tokens and patches on average.

    Looks at two made pictures, soft shapes with some noise, that are always the same.
    """
    height, width = backbone.image_size
    generator = torch_generator(0, "agreement")
    coarse = torch.randn(2, 3, 7, 7, generator=generator)
    shapes = F.interpolate(coarse, size=(height, width), mode="bicubic")
    images = shapes + 0.1 * torch.randn(shapes.shape, generator=generator)
    tokens = []
    for network in (backbone, other):
        parameter = next(network.parameters())
        with evaluating(network), torch.no_grad():
            features = network.features(images.to(parameter)).to("cpu", torch.float32)
        tokens.append([part for part in features[:2] if part is not None])
    cosines = [F.cosine_similarity(one, two, dim=-1) for one, two in zip(*tokens, strict=True)]
    return min(
        float(cosine.flatten(1).mean(1).min() if cosine.ndim > 1 else cosine.min()) for cosine in cosines
    )


def agrees(exact: Backbone, other: Backbone) -> bool:
    """Whether a network in 16 bits runs, and says the same."""
    try:
        return agreement(exact, other) >= AGREEMENT
    except RuntimeError:  # an operation of this network has no 16-bit form on this device
        return False


@contextlib.contextmanager
def evaluating(network: Backbone) -> Iterator[Backbone]:
    """The network in evaluation mode within the block; its own mode after it."""
    training = network.training
    network.eval()
    try:
        yield network
    finally:
        network.train(training)


def at_precision(backbone: Backbone, dtype: torch.dtype, device: torch.device) -> Backbone:
    """The backbone itself if it has this number format and device, else a copy that has.

    Networks of convolutions are copied with their channels last, which processors take in 1.1 to 1.3 times faster
    (2.5 to 3 times in 16 bits). In 16 bits on a processor, linear layers keep their matrix in the processor's own
    order (`PackedLinear`).
    """
    convolutions = sum(isinstance(module, nn.Conv2d) for module in backbone.modules())
    parameters = [p for p in backbone.parameters() if p.is_floating_point()]
    as_it_is = all(p.dtype == dtype and p.device == device for p in parameters)
    if as_it_is and convolutions < 2:  # a vision transformer has one, which cuts the patches
        return backbone
    moved = copy.deepcopy(backbone).to(device, dtype).requires_grad_(False)
    if dtype.itemsize == 2 and _can_pack(dtype, device.type):
        _pack_linear(moved)
    if convolutions < 2:
        return moved
    return moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class PackedLinear(nn.Linear):
    """A linear layer for inference whose 16-bit matrix is laid out once as the processor multiplies it.

    The plain layer does that again at every call, which is up to 45 % of its time. Weight and bias stay readable;
    with gradients, after a change of format, and where torch cannot lay out a format (float16 needs `avx512_fp16` or
    `avx_ne_convert`; anything but a processor), it is the plain layer.
    """

    _packed: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        weight = self.weight
        if torch.is_grad_enabled() or input.dtype != weight.dtype or not input.numel():
            return super().forward(input)
        if not _can_pack(weight.dtype, weight.device.type):
            return super().forward(input)
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight)
        return torch.ops.mkldnn._linear_pointwise(input, self._packed, self.bias, "none", [], "")

    def _apply(self, fn: Any, recurse: bool = True) -> PackedLinear:
        self._packed = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}


def _pack_linear(network: nn.Module) -> None:
    """Turn the plain linear layers of a network into packed ones, in place."""
    for module in network.modules():
        if type(module) is nn.Linear:  # no adaptor, no subclass
            module.__class__ = PackedLinear


@functools.cache
def _can_pack(dtype: torch.dtype, device_type: str) -> bool:
    """Whether this build of torch and this processor lay out and multiply matrices of a format."""
    if device_type != "cpu":
        return False
    matrix = torch.zeros(16, 16, dtype=dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(matrix)
        torch.ops.mkldnn._linear_pointwise(matrix, packed, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return True
