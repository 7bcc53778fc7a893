"""One step of `fewsight adapt`: how much of it is spent outside the backbone.

    python benchmarks/adapt_step.py [--classes 4] [--photos 4] [--size 224] [--repetitions 3] [--out FILE]

A ViT-S/16 (random weights, everything trained) on P x K photos in two views. The step makes the batch from stored
photos (crop, flip, jitter, grey), encodes, projects, takes the loss and its gradient, and moves all weights by AdamW.
Beside it the backbone's forward and backward pass alone, on the same images; what is left is the share outside. CPU
time, in turn in one process. The bar is 10 %.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy
import timm
import torch

from fewsight.backbones.architectures import wrapped
from fewsight.backbones.backbone import Backbone, Licence
from fewsight.data.pipelines import Augmentation
from fewsight.data.store import PixelStore
from fewsight.data.transform import Transform
from fewsight.objectives.label_contrastive import LabelContrastive
from fewsight.training.balanced_source import Balanced, LabelledViews
from measure import compare

BAR = 0.10


def vit(size: int) -> Backbone:
    """A ViT-S/16 with random weights."""
    model = timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0, img_size=size)
    return wrapped(model, "vit-s16", Transform(size=(size, size)), Licence("none", None, "random weights"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    total = arguments.classes * arguments.photos
    pixels = numpy.random.default_rng(0).integers(
        0, 256, (total, arguments.size, arguments.size, 3), numpy.uint8
    )
    labels = numpy.repeat(numpy.arange(arguments.classes), arguments.photos)
    rows = Balanced(
        [numpy.flatnonzero(labels == k) for k in range(arguments.classes)],
        arguments.classes,
        arguments.photos,
    )
    backbone = vit(arguments.size)
    chosen = Augmentation(area=(0.2, 1.0), interpolation="bilinear", jitter=(0.4, 0.4, 0.4, 0.1))
    source = LabelledViews(
        PixelStore(pixels, frozenset(), ""), labels, rows, [chosen] * 2, backbone.transform
    )
    objective = LabelContrastive(backbone).train()
    optimiser = torch.optim.AdamW(objective.parameters(), lr=1e-5)
    images = torch.cat(source(0).images)
    number = iter(range(10**6))

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        objective.backward(source(next(number)))
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimiser.step()

    def backbone_alone() -> None:
        optimiser.zero_grad(set_to_none=True)
        backbone(images).sum().backward()

    costs = compare({"step": step, "backbone alone": backbone_alone}, arguments.repetitions)
    whole, alone = costs["step"].seconds, costs["backbone alone"].seconds
    share = (whole - alone) / whole
    text = (
        f"ViT-S/16 at {arguments.size} px, {arguments.classes} classes x {arguments.photos} photos x 2 views: "
        f"step {whole:.2f} s, backbone alone {alone:.2f} s, outside {100 * share:.1f} % (bar {100 * BAR:.0f} %)"
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
