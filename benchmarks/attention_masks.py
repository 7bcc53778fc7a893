"""Does the attention of a backbone find objects? Class-token attention against masks, two backbones on the same photos.

The measure of `weights/bundled.md`: each photo is squashed to a square, a patch is object where the mask covers more
than half of it, and the mean attention of the heads is judged by the area under the ROC curve of each photo (50 % is
chance; "in the middle" is the plain guess that objects lie there). Differences are paired over photos.

    FEWSIGHT_SHARED=../shared python benchmarks/attention_masks.py --backbone RUN/model [--against fewsight-bundled]

A backbone with another stride is judged on its own patches; its paired difference is then taken of the same photos all
the same. Candidates for a self-supervised companion must be above the bundled backbone here.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.features import Request
from fewsight.backbones.loading import load_backbone
from fewsight.evaluation.intervals import compare, mean_interval

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "distil"))

import masks
from masks import Masked, roc_areas
from views import reader

SETS = ("weizmann_horses", "voc15")


@torch.inference_mode()
def attention(backbone: Backbone, data: Masked) -> Tensor:
    """Mean attention of the class token over heads, `[N, h w]`."""
    mean, std = (torch.tensor(part)[:, None, None] for part in (backbone.mean, backbone.std))
    found = []
    for images in data.images.split(16):  # -1..1
        features = backbone.features((images / 2 + 0.5 - mean) / std, Request(attention=True))
        assert features.attention is not None
        found.append(features.attention.flatten(2).mean(1))
    return torch.cat(found)


def areas(name: str, data: Path, photos: str, side: int) -> Tensor:
    """Area under the ROC curve of each photo."""
    backbone = load_backbone(name, image_size=side).eval()
    masked = masks.load(reader(data), photos, side, backbone.stride)
    print(
        f"  in the middle: {mean_interval(roc_areas(masks.middle(masked.objects), masked.objects)).percent()}"
    )
    return roc_areas(attention(backbone, masked), masked.objects)


def main() -> None:
    """Print the areas of both backbones, and the paired difference where the photos are the same."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("FEWSIGHT_SHARED", "../shared")) / "data"
    )
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--against", default="fewsight-bundled")
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--against-side", type=int, default=192)
    options = parser.parse_args()
    for photos in SETS:
        print(photos)
        first = areas(options.backbone, options.data, photos, options.side)
        second = areas(options.against, options.data, photos, options.against_side)
        for name, found in ((options.backbone, first), (options.against, second)):
            print(f"  {name}: {mean_interval(found).percent()}, {len(found)} photos")
        if len(first) == len(second):
            names = (options.backbone, options.against)
            print(f"  {compare(first, second, names=names, unit='photos').sentence}")


if __name__ == "__main__":
    main()
