"""A network trained by `fewsight metatrain OMNIGLOT --recipe omniglot_prototypes`, judged as published.

    python benchmarks/omniglot.py --photos OMNIGLOT --model RUN/model

Test characters of Vinyals et al. (423, with rotations 1,692 classes), 1,000 episodes with 15 queries a class (fewer
where a class has fewer photos left: Omniglot has 20). Published: 98.8 % and 96.0 % (Snell et al. 2017, table 1).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy
import torch

from fewsight.backbones.features import Features, pool
from fewsight.backbones.loading import load_backbone
from fewsight.data.class_splits import split_class_names, split_classes
from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.data.layouts import read_layout
from fewsight.data.stored_photos import store_photos
from fewsight.heads.prototypes import Prototypes
from fewsight.protocols.episodes import evaluate_episodes
from fewsight.training.episode_source import normalised, rotated_classes


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    asked = parser.parse_args()
    backbone = load_backbone(str(asked.model)).eval()
    collection = read_layout(asked.photos, class_level="leaf").collection
    test = split_classes(collection, split_class_names("omniglot_vinyals"))["test"]
    by_class = collection.by_class()
    photos = numpy.sort(numpy.concatenate([by_class[k] for k in test]))
    chosen = collection.select(photos).without_empty_classes()
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        store = store_photos(chosen, backbone.transform, Path(place))
        images = normalised(store.rows(numpy.arange(len(store))), backbone.transform)
        turned = torch.cat([torch.rot90(images, turn, dims=(2, 3)) for turn in range(4)])
        vectors = torch.cat([pool(backbone.features(part), backbone.pooling) for part in turned.split(512)])
    rows = rotated_classes(chosen.by_class(), len(chosen))
    head = Prototypes(metric="euclidean", normalize=False, centring=0)
    print("| way | shot | accuracy | published |\n|---|---|---|---|")
    published = {(5, 1): "98.8", (5, 5): "99.7", (20, 1): "96.0", (20, 5): "98.9"}
    for (way, shot), figure in published.items():
        episodes = FixedEpisodes(rows, way, shot, 15)
        found = evaluate_episodes(head, Features(cls=vectors), rows, episodes, 1000).accuracy
        print(f"| {way} | {shot} | {100 * found.mean:.2f} ± {100 * found.half_width:.2f} % | {figure} % |")


if __name__ == "__main__":
    main()
