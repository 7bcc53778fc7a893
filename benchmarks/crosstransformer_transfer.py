"""ProtoNet and CTX, each with and without SimCLR episodes: trained alike on CIFAR-FS, judged far from it.

    python benchmarks/crosstransformer_transfer.py train --photos CIFAR --out RUNS
    python benchmarks/crosstransformer_transfer.py judge --runs RUNS --photos CIFAR --omniglot OMNIGLOT --data DATA

With `--set train_photos=null --set training.steps=12000 --steps 12000` they train on all photos, with `--set
simclr.strength=1 --set simclr.query_blur=1` on the published views; `judge --only NAME` takes some of the sets.

CIFAR holds the 100 class folders of CIFAR-100, OMNIGLOT its alphabets, DATA the sets. `train` runs the four recipes in
turns, so that a run that is cut short has trained all four alike; call it again to go on. `judge` encodes every photo
once with each model and draws the same episodes for all: percent with 95 % intervals over episodes, and paired
differences.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy
import torch

from fewsight.backbones.features import Features
from fewsight.backbones.loading import load_backbone
from fewsight.data.class_splits import split_class_names, split_classes
from fewsight.data.collection import Collection
from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.data.layouts import read_layout
from fewsight.data.stored_photos import store_photos
from fewsight.heads.head import Head
from fewsight.protocols.episodes import EpisodeResult, compare_results, evaluate_episodes
from fewsight.trained_head import trained_head
from fewsight.training.checkpoints import latest_checkpoint
from fewsight.training.episode_source import normalised
from fewsight.workflows.metatrain import metatrain

RECIPES = {
    "ProtoNet": "ctx_cifar_fs_prototypes",
    "ProtoNet + SimCLR": "ctx_simclr_cifar_fs_prototypes",
    "CTX": "ctx_cifar_fs",
    "CTX + SimCLR": "ctx_simclr_cifar_fs",
}
PAIRS = (("CTX", "ProtoNet"), ("ProtoNet + SimCLR", "ProtoNet"), ("CTX + SimCLR", "CTX"))
SETS = ("resisc12", "dtd10", "clothing10", "sign_digits", "caltech101_a", "blood_cells3", "pacs")


def steps_done(run: Path) -> int:
    """Of the newest checkpoint."""
    newest = latest_checkpoint(run / "checkpoints")
    return 0 if newest is None else int(newest.stem.split("-")[1])


def trained_until(target: int, photos: Path, run: Path, recipe: str, settings: list[str]) -> bool:
    """Train until a checkpoint of at least `target` steps (0: to the end); whether the run is finished."""
    done = threading.Event()

    def stop() -> None:
        while not done.wait(0.5):
            if steps_done(run) >= target:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    if target:
        threading.Thread(target=stop, daemon=True).start()
    try:
        return metatrain(photos, run, recipe=recipe, overrides=settings, resume=True).result.finished
    finally:
        done.set()


def train(asked: argparse.Namespace) -> None:
    """All four, turn by turn."""
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    open_runs = dict.fromkeys(RECIPES.values(), True)
    for target in range(asked.turn, asked.steps + asked.turn, asked.turn):
        for recipe in [name for name, running in open_runs.items() if running]:
            run = asked.out / recipe
            run.mkdir(exist_ok=True)
            if not (run / "store").exists():
                (asked.out / "store").mkdir(exist_ok=True)
                (run / "store").symlink_to(asked.out.resolve() / "store")
            if steps_done(run) >= target and target < asked.steps:
                continue
            started = time.process_time()
            open_runs[recipe] = not trained_until(
                target if target < asked.steps else 0, asked.photos, run, recipe, asked.set
            )
            print(f"{recipe}: {steps_done(run)} steps, {time.process_time() - started:.0f} s", flush=True)


def collections(asked: argparse.Namespace) -> Iterator[tuple[str, Collection, list[numpy.ndarray]]]:
    """Name, photos, and the rows of each class to draw episodes from."""
    cifar = read_layout(asked.photos).collection
    chosen = split_classes(cifar, split_class_names("cifar_fs"))["test"]
    yield "CIFAR-FS test", *only(cifar, chosen)
    omniglot = read_layout(asked.omniglot, class_level="leaf").collection
    yield "Omniglot", *only(omniglot, split_classes(omniglot, split_class_names("omniglot_vinyals"))["test"])
    for name in SETS:
        photos = read_layout(asked.data / f"{name}.zip" if asked.zipped else asked.data / name).collection
        yield name, photos, list(photos.by_class())


def only(photos: Collection, classes: list[int]) -> tuple[Collection, list[numpy.ndarray]]:
    """The photos of some classes."""
    rows = photos.by_class()
    kept = photos.select(numpy.sort(numpy.concatenate([rows[k] for k in classes]))).without_empty_classes()
    return kept, list(kept.by_class())


@torch.no_grad()
def encoded(model: Path, photos: Collection, place: Path) -> Features:
    """Patch tokens of all photos by one model."""
    backbone = load_backbone(str(model)).eval()
    store = store_photos(photos, backbone.transform, place)
    parts = [
        backbone.features(normalised(store.rows(rows), backbone.transform)).patches
        for rows in numpy.array_split(numpy.arange(len(store)), -(-len(store) // 256))
    ]
    return Features(patches=torch.cat(parts))


def judged(asked: argparse.Namespace) -> Iterator[tuple[str, int, dict[str, EpisodeResult]]]:
    """Results of the four models on the same episodes."""
    models = {name: asked.runs / recipe / "model" for name, recipe in RECIPES.items()}
    heads: dict[str, Head] = {name: trained_head(model) for name, model in models.items()}  # type: ignore[misc]
    for dataset, photos, by_class in collections(asked):
        if asked.only and dataset not in asked.only:
            continue
        with tempfile.TemporaryDirectory() as place:
            features = {name: encoded(model, photos, Path(place)) for name, model in models.items()}
        way = min(5, len(by_class))
        for shot in (1, 5):
            episodes = FixedEpisodes(by_class, way, shot, 15, stream="transfer episode")
            yield (
                dataset if way == 5 else f"{dataset} ({way}-way)",
                shot,
                {
                    name: evaluate_episodes(head, features[name], by_class, episodes, asked.episodes)
                    for name, head in heads.items()
                },
            )


def judge(asked: argparse.Namespace) -> None:
    """Two Markdown tables."""
    torch.set_num_threads(1)
    first = "| set | shots | " + " | ".join(RECIPES) + " |\n|---|---|" + "---|" * len(RECIPES)
    second = "| set | shots | " + " | ".join(f"{a} - {b}" for a, b in PAIRS) + " |\n|---|---|" + "---|" * 3
    for dataset, shot, found in judged(asked):
        accuracies = [result.accuracy for result in found.values()]
        cells = [f"{100 * a.mean:.1f} ± {100 * a.half_width:.1f}" for a in accuracies]
        first += f"\n| {dataset} | {shot} | " + " | ".join(cells) + " |"
        paired = [compare_results(found[a], found[b], (a, b)).difference for a, b in PAIRS]
        cells = [f"{100 * d.mean:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f})" for d in paired]
        second += f"\n| {dataset} | {shot} | " + " | ".join(cells) + " |"
        print(first.splitlines()[-1], second.splitlines()[-1], flush=True)
    print(f"\n{first}\n\n{second}")


def main() -> None:
    """Train or judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(required=True)
    training = parts.add_parser("train")
    training.add_argument("--photos", type=Path, required=True)
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--turn", type=int, default=500)
    training.add_argument("--steps", type=int, default=1000, help="as in the recipes")
    training.add_argument("--set", action="append", default=[])
    training.set_defaults(run=train)
    judging = parts.add_parser("judge")
    judging.add_argument("--runs", type=Path, required=True)
    judging.add_argument("--photos", type=Path, required=True)
    judging.add_argument("--omniglot", type=Path, required=True)
    judging.add_argument("--data", type=Path, required=True)
    judging.add_argument("--zipped", action="store_true", help="the sets are zip files as they come")
    judging.add_argument("--episodes", type=int, default=600)
    judging.add_argument("--only", action="append", default=[], help="a set by its name in the table")
    judging.set_defaults(run=judge)
    asked = parser.parse_args()
    asked.run(asked)


if __name__ == "__main__":
    main()
