"""Prototypes trained by `fewsight metatrain` from the recipes of Omniglot and CIFAR-FS, judged as published.

    python benchmarks/trained_prototypes.py omniglot --photos OMNIGLOT --model RUN/model
    python benchmarks/trained_prototypes.py cifar_fs --photos CIFAR100 --model RUN/model

Test classes, 1,000 episodes with 15 queries a class (fewer where a class has fewer photos left: Omniglot has 20).
Omniglot: 423 characters, with rotations 1,692 classes; published by Snell et al. 2017, table 1. CIFAR-FS: 20 classes;
published by Bertinetto et al. 2019, table 1.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy
import torch

from fewsight.backbones.features import Features, pool
from fewsight.backbones.loading import load_backbone
from fewsight.data.class_splits import photos_of_split
from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.data.layouts import read_layout
from fewsight.data.stored_photos import store_photos
from fewsight.heads.prototypes import Prototypes
from fewsight.protocols.episodes import evaluate_episodes
from fewsight.training.episode_source import normalised, rotated_classes


class Protocol(NamedTuple):
    """A class split and how its test classes are judged; `published` in percent, by way and shot."""

    split: str
    class_level: Literal["top", "leaf"]
    rotations: bool
    published: dict[tuple[int, int], str]


PROTOCOLS = {
    "omniglot": Protocol(
        "omniglot_vinyals",
        "leaf",
        True,
        {(5, 1): "98.8", (5, 5): "99.7", (20, 1): "96.0", (20, 5): "98.9"},
    ),
    "cifar_fs": Protocol("cifar_fs", "top", False, {(5, 1): "55.5", (5, 5): "72.0"}),
}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(PROTOCOLS))
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    asked = parser.parse_args()
    protocol = PROTOCOLS[asked.name]
    backbone = load_backbone(str(asked.model)).eval()
    collection = read_layout(asked.photos, class_level=protocol.class_level).collection
    chosen = photos_of_split(collection, f"{protocol.split}:test")
    turns = 4 if protocol.rotations else 1
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        store = store_photos(chosen, backbone.transform, Path(place))
        images = normalised(store.rows(numpy.arange(len(store))), backbone.transform)
        turned = torch.cat([torch.rot90(images, turn, dims=(2, 3)) for turn in range(turns)])
        vectors = torch.cat([pool(backbone.features(part), backbone.pooling) for part in turned.split(512)])
    by_class = list(chosen.by_class())
    rows = rotated_classes(by_class, len(chosen)) if protocol.rotations else by_class
    head = Prototypes(metric="euclidean", normalize=False, centring=0)
    print("| way | shot | accuracy | published |\n|---|---|---|---|")
    for (way, shot), figure in protocol.published.items():
        episodes = FixedEpisodes(rows, way, shot, 15)
        found = evaluate_episodes(head, Features(cls=vectors), rows, episodes, 1000).accuracy
        print(f"| {way} | {shot} | {100 * found.mean:.2f} ± {100 * found.half_width:.2f} % | {figure} % |")


if __name__ == "__main__":
    main()
