"""Exact gradients of a contrastive loss over many images: peak memory of gradient caching beside the plain graph.

    python benchmarks/gradient_cache.py [--images 64 256] [--chunk 32] [--repetitions 3] [--out FILE]

Encoder: ResNet-12 in evaluation mode at 32 pixels; its gradients are checked to agree. The plain graph grows with the
images, the cached one with the chunk alone; it costs one more forward pass.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.backbones.resnet12 import ResNet12
from fewsight.gradients.cache import cached_backward
from fewsight.objectives.label_contrastive import label_contrastive_loss
from measure import compare, table


def calls(net: ResNet12, images: int, chunk: int) -> dict[str, Callable[[], Tensor]]:
    """Value and gradients of one batch, by the plain graph and in chunks."""
    inputs, labels = torch.randn(images, 3, 32, 32), torch.arange(images) % 10

    def encode(x: Tensor) -> Tensor:
        return F.normalize(net(x), dim=1)

    def loss(z: Tensor) -> Tensor:
        return label_contrastive_loss(z[:, None], labels)

    def plain() -> Tensor:
        net.zero_grad()
        value = loss(encode(inputs))
        value.backward()
        return value.detach()

    def cached() -> Tensor:
        net.zero_grad()
        return cached_backward(encode, loss, inputs, chunk=chunk)

    return {f"plain graph, {images} images": plain, f"cached, {images} images": cached}


def gradients(net: ResNet12) -> Tensor:
    """All gradients in one vector."""
    return torch.cat(
        [parameter.grad.flatten() for parameter in net.parameters() if parameter.grad is not None]
    )


def main() -> None:
    """Compare and print a table for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="*", default=[64, 256])
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = ResNet12().eval()
    text = ""
    for images in arguments.images:
        pair = calls(net, images, arguments.chunk)
        (peer, plain), (_, cached) = pair.items()
        plain()
        expected = gradients(net)
        cached()
        error = float((gradients(net) - expected).norm() / expected.norm())
        assert error < 1e-4, error  # float32 sums in another order
        text += table(compare(pair, arguments.repetitions), peer) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
