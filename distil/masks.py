"""What attention and keys are worth for telling object from background, on photos with masks.

Each photo is squashed to a square; a patch is object where the mask covers more than half of it. Scores of the
patches are judged by the area under the ROC curve (0.5 is chance), a photo at a time; photos without both kinds of
patches are left out. The untaught scores are compared with a plain guess, "objects lie in the middle".
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy
import torch
import torch.nn.functional as F
from judge import Figure
from PIL import Image
from teacher import Teacher
from torch import Tensor

from fewsight.backbones.bundled import BundledBackbone, load_bundled
from fewsight.backbones.features import Features, Request

SIZE = 192
REQUEST = Request(attention=True, keys=True, class_query=True)
TEACHER = "mobilenetv2_imagenet.safetensors"


@dataclass(frozen=True)
class Masked:
    """Photos in -1..1 `[N, 3, S, S]`, which patches are object `[N, h w]`, and the labels of each photo."""

    images: Tensor
    objects: Tensor
    labels: list[frozenset[str]]


def load(read: ModuleType, name: str, size: int = SIZE, stride: int = 16) -> Masked:
    """Photos of a set with object and background patches; one label where the set has several is enough."""
    images, objects, labels = [], [], []
    for image, info, mask in read.load(name):
        object_share = numpy.asarray(mask.resize((size, size), Image.Resampling.NEAREST)) > 0
        share = torch.from_numpy(object_share).float().unfold(0, stride, stride).unfold(1, stride, stride)
        patches = (share.mean((2, 3)) > 0.5).flatten()
        if patches.any() and not patches.all():
            images.append(numpy.asarray(image.resize((size, size), Image.Resampling.BICUBIC)))
            objects.append(patches)
            labels.append(frozenset(info["labels"]))
    stacked = torch.from_numpy(numpy.stack(images)).permute(0, 3, 1, 2)
    return Masked(stacked.float().div_(127.5).sub_(1), torch.stack(objects), labels)


def roc_areas(scores: Tensor, objects: Tensor) -> Tensor:
    """Area under the ROC curve of each row, ties counted half: scores and objects `[N, P]`, result `[N]`."""
    return torch.cat([_roc_area(s, o) for s, o in zip(scores.split(32), objects.split(32), strict=True)])


def _roc_area(scores: Tensor, objects: Tensor) -> Tensor:
    above = (scores[:, :, None] - scores[:, None, :]).sign().add_(1).div_(2)  # 1 above, 0.5 equal, 0 below
    pairs = objects[:, :, None] & ~objects[:, None, :]
    return (above * pairs).sum((1, 2)) / pairs.sum((1, 2))


def untaught(features: Features) -> dict[str, Tensor]:
    """Scores `[N, P]` that need no mask: attention, and cosine of class query and keys, both means over heads."""
    assert features.attention is not None
    assert features.keys is not None
    assert features.class_query is not None
    query = F.normalize(features.class_query, dim=-1)  # [N, n, d]
    keys = F.normalize(features.keys.flatten(2, 3), dim=-1)  # [N, n, P, d]
    return {
        "attention of the class token": features.attention.flatten(2).mean(1),
        "class query and keys, cosine": torch.einsum("Nnd,NnPd->NnP", query, keys).mean(1),
    }


def taught_by_one(patches: Tensor, objects: Tensor, partner: Tensor) -> Tensor:
    """Scores `[N, P]` from one other photo with its mask: likeness to its mean object minus to its mean background.

    Args:
        patches: `[N, P, D]`.
        objects: bool `[N, P]`.
        partner: the photo that teaches, `[N]`.
    """
    unit = F.normalize(patches, dim=-1)
    share = objects.float()
    front = torch.einsum("NP,NPD->ND", share / share.sum(1, keepdim=True), unit)
    back = torch.einsum("NP,NPD->ND", (1 - share) / (1 - share).sum(1, keepdim=True), unit)
    direction = F.normalize(front, dim=-1) - F.normalize(back, dim=-1)
    return torch.einsum("NPD,ND->NP", unit, direction[partner])


def partners(labels: list[frozenset[str]]) -> Tensor:
    """For each photo the next one, in a ring, that shares a label; itself where there is none."""
    n = len(labels)
    return torch.tensor(
        [next((j % n for j in range(i + 1, i + n) if labels[i] & labels[j % n]), i) for i in range(n)]
    )


def middle(objects: Tensor) -> Tensor:
    """Minus the distance of each patch from the centre, `[N, P]`."""
    side = int(objects.shape[1] ** 0.5)
    place = torch.linspace(-1, 1, side)
    return -(place[:, None] ** 2 + place**2).flatten().expand(len(objects), -1)


@torch.inference_mode()
def report(read: ModuleType, name: str, options: argparse.Namespace) -> None:
    """Print the areas of one set for untrained, bundled and teacher."""
    torch.manual_seed(0)
    data = load(read, name)
    partner = partners(data.labels)
    fair = partner != torch.arange(len(partner))
    print(f"\n{name}: {len(data.images)} photos at {SIZE} px, mean area under the ROC curve in %")
    line("middle of the photo", roc_areas(middle(data.objects), data.objects))
    networks = {"untrained": BundledBackbone().eval(), "bundled": load_bundled(options.weights)}
    for label, network in networks.items():
        _report_network(label, network.to(memory_format=torch.channels_last), data, partner, fair)
    teacher = Teacher(options.data / TEACHER).to(memory_format=torch.channels_last)
    maps = torch.cat([teacher(part)[2].flatten(2).transpose(1, 2) for part in _parts(data.images)])
    areas = roc_areas(taught_by_one(maps, data.objects, partner), data.objects)
    line("teacher dilated: taught by one photo, maps", areas[fair])


def _report_network(
    label: str, network: BundledBackbone, data: Masked, partner: Tensor, fair: Tensor
) -> None:
    found = [network.features(part, REQUEST) for part in _parts(data.images)]
    untaught_scores = [untaught(part) for part in found]
    for what in untaught_scores[0]:
        scores = torch.cat([part[what] for part in untaught_scores])
        line(f"{label}: {what}", roc_areas(scores, data.objects))
    spaces = {
        "patch tokens": torch.cat([part.patches.flatten(1, 2) for part in found]),
        "keys": torch.cat([part.keys.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2) for part in found]),
    }
    for what, patches in spaces.items():
        areas = roc_areas(taught_by_one(patches, data.objects, partner), data.objects)
        line(f"{label}: taught by one photo, {what}", areas[fair])


def _parts(images: Tensor) -> Iterator[Tensor]:
    for part in images.split(16):
        yield part.contiguous(memory_format=torch.channels_last)


def line(what: str, areas: Tensor) -> None:
    """Print one figure with its interval over photos."""
    print(f"| {what} | {Figure.of(areas)} |", flush=True)
