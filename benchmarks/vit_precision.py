"""ViT-S/16 at 224 px in the precision that is chosen by default beside float32, and its features beside float32's.

    python benchmarks/vit_precision.py [--repetitions 7] [--threads 1] [--backbone NAME ...]

Both run in turn in one process through `Encoder`, at its own batch size, on CPU time. On a processor without 16-bit
matrix instructions the default is float32 and the ratio is 1. Weights are random unless a backbone is named: speed
does not depend on them, and `agreement` is what the default itself goes by.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch

from fewsight.backbones.architectures import untrained_backbone
from fewsight.backbones.backbone import Backbone
from fewsight.backbones.encode import Encoder
from fewsight.backbones.loading import load_backbone
from fewsight.backbones.precision import agreement
from fewsight.devices import matrix_precision
from measure import compare, table


def measured(backbone: Backbone, repetitions: int) -> str:
    """One table for one backbone."""
    encoders = {"float32": Encoder(backbone, precision="fp32"), "auto": Encoder(backbone)}
    fastest = matrix_precision("cpu")
    if encoders["auto"].dtype == torch.float32 and fastest != "fp32":
        encoders[f"{fastest} (not chosen)"] = Encoder(backbone, precision=fastest)
    images = torch.randn(encoders["auto"].batch_size, 3, *backbone.image_size)
    costs = compare({name: partial(encoder, images) for name, encoder in encoders.items()}, repetitions)
    rates = ", ".join(f"{name} {len(images) / cost.seconds:.1f} images/s" for name, cost in costs.items())
    likeness = agreement(backbone, list(encoders.values())[-1]._network)
    return (
        f"{backbone.name} at {backbone.image_size[0]} px, auto is {encoders['auto'].dtype}: {rates}; "
        f"cosine of {fastest} {likeness:.5f}\n\n{table(costs, 'float32')}"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backbone", nargs="*", default=["fewsight-bundled"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(measured(untrained_backbone("vit_small_patch16_224").eval(), options.repetitions))
    for name in options.backbone:
        print(f"\n{measured(load_backbone(name, device='cpu'), options.repetitions)}")


if __name__ == "__main__":
    main()
