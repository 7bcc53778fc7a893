"""The training-free head on photos of 15 VOC classes, beside thresholded similarity and the whole image.

FS-CS episodes: the query holds its class among the ways with probability one half. Exact ratio (ER) of presence
and mIoU over absolute classes, with 95 % bootstrap intervals over episodes; differences are paired. Similarity is
the cosine to the mean of each class's foreground (of whole photos where only labels are given); its threshold is
the **best on the test episodes**, which no user has.

    FEWSIGHT_SHARED=../shared python benchmarks/training_free_segmentation.py [--episodes 300] [--side 256]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.backbones.bundled import load_bundled
from fewsight.backbones.features import Features, Request, concatenate
from fewsight.evaluation.segmentation import EpisodeAreas, episode_areas, metrics_of_areas
from fewsight.heads.correspondence import Correspondence
from fewsight.heads.head import Support
from fewsight.heads.pseudo_masks import mask_prior
from fewsight.seeding import numpy_generator

LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7)
LEFT_OUT = "diningtable"  # one photo


class Photos(NamedTuple):
    """Features of all photos, their masks (VOC ids) and the photos of each class."""

    features: Features
    masks: list[Tensor]
    by_class: dict[int, list[int]]


class Episode(NamedTuple):
    """One query and the supports of each way."""

    query: int
    ways: list[int]
    supports: list[int]


def read_photos(side: int) -> Photos:
    """voc15 of the shared data, squashed to a square so that patches cover whole photos."""
    folder = Path(os.environ.get("FEWSIGHT_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
    reader = load(folder / "read.py")
    ids = {row["name"]: int(row["id"]) for row in reader.classes("voc15") if row["name"] != LEFT_OUT}
    backbone, request = load_bundled(), Request(attention=True)
    mean, std = torch.tensor(backbone.mean)[:, None, None], torch.tensor(backbone.std)[:, None, None]
    features, masks, by_class = [], [], {}
    for number, (image, facts, mask) in enumerate(reader.load("voc15")):
        pixels = numpy.array(image.convert("RGB").resize((side, side), 3))
        tensor = (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - mean) / std
        with torch.no_grad():
            features.append(backbone.features(tensor[None], request))
        masks.append(torch.from_numpy(numpy.array(mask)))
        for name in facts["labels"]:
            if name in ids:
                by_class.setdefault(ids[name], []).append(number)
    return Photos(concatenate(features), masks, by_class)


def load(path: Path) -> ModuleType:
    """A module by its file."""
    spec = importlib.util.spec_from_file_location("shared_data_reader", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def episodes(photos: Photos, count: int, way: int, shot: int) -> Iterator[Episode]:
    """Episode i is a function of (way, shot, i)."""
    classes = sorted(photos.by_class)
    for index in range(count):
        draw = numpy_generator(0, "voc15 episode", way, shot, index)
        own = classes[int(draw.integers(len(classes)))]
        query = int(draw.choice(photos.by_class[own]))
        chance = numpy.array([0.5 if c == own else 0.5 / (len(classes) - 1) for c in classes])
        ways = [int(c) for c in draw.choice(classes, way, replace=False, p=chance)]
        supports = []
        for c in ways:
            others = [i for i in photos.by_class[c] if i != query]
            supports += [int(i) for i in draw.choice(others, shot, replace=False)]
        yield Episode(query, ways, supports)


def answers(photos: Photos, episode: Episode, masked: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """Presence [N] and map [H, W] of every method."""
    shots, ways = len(episode.supports) // len(episode.ways), len(episode.ways)
    membership = torch.eye(ways, dtype=torch.bool).repeat_interleave(shots, 0)
    masks = tuple(photos.masks[i] == episode.ways[j // shots] for j, i in enumerate(episode.supports))
    features, query = photos.features.rows(episode.supports), photos.features.rows([episode.query])
    size = tuple(photos.masks[episode.query].shape)
    names = tuple(str(c) for c in episode.ways)
    support = Support(features, membership, names, masks if masked else None)
    found = Correspondence().condition(support).segment(query, size)
    result = {"correspondence": decided(found.presence[0], found.foreground[0], gate=False)}
    result["correspondence, absent cleared"] = decided(found.presence[0], found.foreground[0], gate=True)
    result["whole image"] = (torch.ones(ways, dtype=torch.bool), torch.ones(size, dtype=torch.int64))
    patches = features.patches
    assert patches is not None
    assert query.patches is not None
    weights = torch.stack([mask_prior(m, grid=patches.shape[1:3]) for m in masks])
    weights = weights if masked else torch.ones_like(weights)
    means = (patches * weights[..., None]).sum((1, 2)) / weights.sum((1, 2))[:, None]
    prototypes = F.normalize(means.view(ways, shots, -1).mean(1), dim=1)
    cosines = (F.normalize(query.patches, dim=-1) @ prototypes.T).permute(0, 3, 1, 2)
    maps = F.interpolate(cosines, size=size, mode="bilinear", align_corners=False)[0]
    for level in LEVELS:
        result[f"similarity {level}"] = decided(
            cosines[0].amax((1, 2)) - level + 0.5, maps - level + 0.5, gate=False
        )
    return result


def decided(presence: Tensor, foreground: Tensor, *, gate: bool) -> tuple[Tensor, Tensor]:
    """Present classes, and the map; with `gate` pixels of absent classes are background."""
    present = presence > 0.5
    if gate:
        foreground = torch.where(present[:, None, None], foreground, 0)
    largest, way = foreground.max(0)
    return present, torch.where(largest >= 0.5, way + 1, 0)


def measure(photos: Photos, count: int, way: int, shot: int, masked: bool) -> dict[str, Any]:
    """Figures of every method on the same episodes."""
    maps: dict[str, list[Tensor]] = {}
    right: dict[str, list[bool]] = {}
    targets, way_classes = [], []
    for episode in episodes(photos, count, way, shot):
        truth = photos.masks[episode.query]
        target = torch.zeros(truth.shape, dtype=torch.int64)
        for number, c in enumerate(episode.ways):
            target[truth == c] = number + 1
        present = torch.tensor([bool((truth == c).any()) for c in episode.ways])
        targets.append(target)
        way_classes.append(episode.ways)
        for name, (said, labels) in answers(photos, episode, masked).items():
            maps.setdefault(name, []).append(labels)
            right.setdefault(name, []).append(bool((said == present).all()))
    ways = torch.tensor(way_classes)
    classes = sorted(photos.by_class)
    draws = torch.from_numpy(numpy_generator(0, "bootstrap").integers(0, count, (1000, count)))
    samples, figures = {}, {}
    for name, found in maps.items():
        areas = episode_areas(found, targets, ways)
        miou = metrics_of_areas(areas, ways, classes=classes).miou
        samples[name] = torch.tensor([resampled(areas, ways, draw, classes) for draw in draws])
        ratio = torch.tensor(right[name]).double()
        figures[name] = {
            "mIoU": interval(miou, samples[name]),
            "ER": interval(float(ratio.mean()), ratio[draws].mean(1)),
        }
    best = max((n for n in figures if n.startswith("similarity")), key=lambda n: figures[n]["mIoU"][0])
    gain = samples["correspondence"] - samples[best]
    ours = figures["correspondence"]["mIoU"][0] - figures[best]["mIoU"][0]
    kept = ["correspondence", "correspondence, absent cleared", "whole image", best]
    return {**{name: figures[name] for name in kept}, "mIoU gain over best similarity": interval(ours, gain)}


def resampled(areas: EpisodeAreas, ways: Tensor, draw: Tensor, classes: list[int]) -> float:
    """mIoU of one bootstrap sample."""
    some = EpisodeAreas(areas.intersection[draw], areas.union[draw])
    return metrics_of_areas(some, ways[draw], classes=classes).miou


def interval(value: float, samples: Tensor) -> list[float]:
    """Value, and the 2.5 and 97.5 % quantiles of its bootstrap samples."""
    low, high = samples.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return [round(value, 3), round(low, 3), round(high, 3)]


def main() -> None:
    """Run and print one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--side", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    photos = read_photos(options.side)
    for way, shot in ((1, 1), (1, 5), (2, 1), (2, 5), (5, 1)):
        for masked in (True, False):
            figures = measure(photos, options.episodes, way, shot, masked)
            print(json.dumps({"way": way, "shot": shot, "masks": masked, **figures}), flush=True)


if __name__ == "__main__":
    main()
