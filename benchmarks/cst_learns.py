"""What trained CST heads find on classes that they never saw, beside no training: one table over all folds of a folder.

Every head and every reference answers the same FS-CS episodes of each fold's novel classes; figures are means over the
folds. Heads stand in RUNS as `FOLD-NAME/model` (`fewsight metatrain FOLDER --head cst --set fold=FOLD --out
RUNS/FOLD-NAME`), or, where the whole folder is new to them (`--whole`), as `NAME/model`.

    python benchmarks/cst_learns.py FOLDER RUNS [--whole] [--way 1 2] [--shot 1 5] [--supports labels] [--episodes 200]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from fewsight.backbones.encode import Encoder
from fewsight.backbones.feature_cache import FeatureCache
from fewsight.backbones.stored_features import store_features
from fewsight.data.class_folds import class_fold, fold_count
from fewsight.data.label_maps import LabelMaps
from fewsight.data.layouts import read_layout
from fewsight.evaluation.intervals import Interval
from fewsight.heads.head import Head
from fewsight.progress import quieted
from fewsight.protocols.few_shot_segmentation import (
    EpisodeVerdicts,
    FewShotFigures,
    compare_verdicts,
    few_shot_figures,
)
from fewsight.workflows.dense_episodes import (
    BASELINES,
    EpisodeSet,
    best_similarity,
    dense_head,
    head_method,
    mean_over,
)
from fewsight.workflows.few_shot_segmentation import squashed_backbone
from fewsight.workflows.metatrain_dense import DENSE_REQUEST

TRAINING_FREE = "correspondence"
Fold = tuple[dict[str, EpisodeVerdicts], tuple[int, ...]]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--way", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shot", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--supports", choices=("labels", "masks"), default="labels")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--backbone", default="fewsight-bundled")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--fold", type=int, nargs="+")
    parser.add_argument("--only", nargs="+", help="names of heads; all by default")
    return parser.parse_args()


def main() -> None:
    """Run and print."""
    told = options()
    torch.set_num_threads(1)
    backbone = squashed_backbone(told.backbone, told.image_size)
    collection = read_layout(told.folder).collection
    least = max(told.shot) + 1
    folds = 1 if told.whole else fold_count(int((collection.counts() >= least).sum()))
    chosen = range(folds) if told.fold is None else told.fold
    judged: dict[tuple[int, int], list[Fold]] = {}
    with FeatureCache() as cache, quieted():
        encoder = Encoder(backbone, DENSE_REQUEST, precision="fp32")
        for fold in chosen:
            parts = class_fold(collection, fold, folds=folds, least=least)
            photos = store_features(encoder, collection.select(parts.test), cache, workers=0)
            counts = photos.collection.counts()
            classes = tuple(k for k in parts.novel if counts[k] >= least)
            print(f"fold {fold}: {len(photos)} photos, {', '.join(collection.classes[k] for k in classes)}")
            maps = LabelMaps(photos.collection, photos.sizes, told.image_size)
            episodes = EpisodeSet.of_fold(photos, maps, classes, seed=0, task="fs-cs")
            heads = trained(told, None if told.whole else fold, backbone)
            heads[TRAINING_FREE] = dense_head(TRAINING_FREE, backbone)
            methods = {**{name: head_method(head) for name, head in heads.items()}, **BASELINES}
            for way in told.way:
                for shot in told.shot:
                    verdicts = episodes.judged(
                        methods, way=way, shot=shot, episodes=told.episodes, supports=told.supports
                    )
                    judged.setdefault((way, shot), []).append((verdicts, classes))
    for (way, shot), found in judged.items():
        print(f"\n{way}-way {shot}-shot, supports with {told.supports}, {told.episodes} episodes a fold")
        for line in lines(found):
            print(line)


def trained(told: argparse.Namespace, fold: int | None, backbone: object) -> dict[str, Head]:
    """Heads by name."""
    before = "" if fold is None else f"{fold}-"
    found = sorted(path.parent for path in told.runs.glob(f"{before}*/model/model.json"))
    names = {path: path.parent.name.removeprefix(before) for path in found}
    return {
        name: dense_head(str(path), backbone)  # type: ignore[arg-type]
        for path, name in names.items()
        if told.only is None or name in told.only
    }


def lines(folds: Sequence[Fold]) -> Iterator[str]:
    """One for each method that answered in every fold, and its paired difference from no training."""
    names = [name for name in folds[0][0] if all(name in verdicts for verdicts, _ in folds)]
    figures: dict[str, list[FewShotFigures]] = {
        name: [few_shot_figures(verdicts[name], classes) for verdicts, classes in folds] for name in names
    }
    kept = {name: folds[0][0][name] for name in names}
    oracle = best_similarity(kept, {n: mean_over([f.miou for f in each]).mean for n, each in figures.items()})
    for name, each in figures.items():
        if name.startswith("similarity") and name != oracle:
            continue
        ratio, miou = mean_over([f.exact_ratio for f in each]), mean_over([f.miou for f in each])
        line = f"| {name} | {short(ratio)} | {short(miou)} |"
        if name not in BASELINES and name != TRAINING_FREE:
            for what in ("exact ratio", "mIoU"):
                line += f" {short(mean_over(differences(folds, name, what)), signed=True)} |"
        yield line


def differences(folds: Sequence[Fold], name: str, what: str) -> list[Interval]:
    """Paired, of each fold."""
    found = []
    for verdicts, classes in folds:
        pair = compare_verdicts(
            verdicts[name], verdicts[TRAINING_FREE], classes, (name, TRAINING_FREE), seed=0
        )
        found.append(next(each.difference for key, each in pair.items() if key == what))
    return found


def short(value: Interval, *, signed: bool = False) -> str:
    """Percent with interval."""
    sign = "+" if signed else ""
    return f"{100 * value.mean:{sign}.1f} ({100 * value.low:{sign}.1f} to {100 * value.high:{sign}.1f})"


if __name__ == "__main__":
    main()
