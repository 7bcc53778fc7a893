"""Does the mask follow the support, or only what is salient? The same queries with the right and a wrong support.

Episodes of one class that is there (FS-S) on any folder with masks. Each query is answered twice: with a support of its
class, and with a support of a class that it does not show. If only saliency counted, the two masks would be as good.

    python benchmarks/follows_support.py FOLDER [--head correspondence | RUN/model] [--episodes 150] [--supports labels]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy
import torch
from torch import Tensor

from fewsight.backbones.encode import Encoder
from fewsight.backbones.feature_cache import FeatureCache
from fewsight.backbones.features import Request
from fewsight.backbones.stored_features import store_features
from fewsight.data.label_maps import LabelMaps
from fewsight.data.layouts import read_layout
from fewsight.evaluation.intervals import mean_interval
from fewsight.protocols.few_shot_segmentation import DenseEpisode, decided
from fewsight.seeding import numpy_generator
from fewsight.workflows.dense_episodes import EpisodeSet, dense_head, head_method
from fewsight.workflows.few_shot_segmentation import squashed_backbone


def iou(found: Tensor, truth: Tensor) -> float:
    """Of foreground, void left out."""
    said, true, known = found > 0, truth == 1, truth != 255
    return float((said & true & known).sum()) / max(1, int(((said | true) & known).sum()))


def wrong_class(shown: frozenset[int], classes: list[int], index: int) -> int:
    """A class that the query does not show."""
    absent = [number for number in classes if number not in shown]
    return absent[int(numpy_generator(0, "wrong class", index).integers(len(absent)))]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--head", default="correspondence")
    parser.add_argument("--episodes", type=int, default=150)
    parser.add_argument("--supports", choices=("labels", "masks"), default="labels")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = squashed_backbone("fewsight-bundled", None)
    head = dense_head(options.head, backbone)
    request = Request(blocks="all", attention=True, keys=True, class_query=True)
    with FeatureCache() as cache:
        encoder = Encoder(backbone, request, precision="fp32")
        photos = store_features(encoder, read_layout(options.folder).collection, cache, workers=0)
        counts = photos.collection.counts()
        classes = [number for number in range(len(counts)) if counts[number] > 2]
        maps = LabelMaps(photos.collection, photos.sizes, 256)
        episodes = EpisodeSet.of_fold(photos, maps, tuple(classes), seed=0, task="fs-s")
        method, rows = head_method(head), photos.collection.by_class()
        found: dict[str, list[float]] = {"right": [], "wrong": [], "present right": [], "present wrong": []}
        for index in range(options.episodes):
            right = episodes.draw(index, 1, 1)
            shown = frozenset(photos.collection.labels_of(right.query).tolist())
            other = wrong_class(shown, classes, index)
            support = int(numpy_generator(0, "wrong support", index).choice(rows[other]))
            wrong = DenseEpisode(right.query, (other,), ((support,),))
            truth = episodes.truth(right)
            size = (truth.shape[0], truth.shape[1])
            for name, episode in (("right", right), ("wrong", wrong)):
                with torch.no_grad():
                    answer = method(
                        episodes.support(episode, options.supports), photos.rows([right.query]), size
                    )
                told = decided(answer.presence[0], answer.foreground[0])
                found[name].append(iou(told.labels, truth))
                found[f"present {name}"].append(float(told.present[0]))
    for name in ("right", "wrong"):
        print(
            f"{name} support: IoU with the query's class {mean_interval(found[name]).percent()}, "
            f"called present {mean_interval(found[f'present {name}']).percent()}"
        )
    difference = mean_interval(numpy.array(found["right"]) - numpy.array(found["wrong"]))
    print(f"paired difference of IoU: {difference.percent()}, n = {difference.n}")


if __name__ == "__main__":
    main()
