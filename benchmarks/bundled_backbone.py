"""What the bundled backbone is worth beside raw pixels, the same network untrained, and its teacher.

    python benchmarks/bundled_backbone.py --data DATA [--weights FOLDER] [--against FOLDER] [--sizes 128 192] [--json FILE]

Few-shot: 5-way, 600 episodes of a fixed seed, 10 queries a class, cosine to the mean prototype, on six sets that
training never saw; every model sees the same episodes, so differences are paired. Object against background:
area under the ROC curve of patches by attention, class query and keys, on photos with masks.
DATA holds the data sets, `read.py`, and the teacher's file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fewsight.backbones.bundled import WEIGHTS, BundledBackbone, load_bundled
from fewsight.backbones.features import Pooling, pool

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "distil"))

import masks  # noqa: E402
from judge import Figure, accuracies, pixels, vectors  # noqa: E402
from teacher import Teacher  # noqa: E402
from views import reader  # noqa: E402

SETS = {
    "resisc": ("resisc12", None),
    "dtd": ("dtd10", None),
    "clothing": ("clothing10", None),
    "signs": ("sign_digits", None),
    "caltech": ("caltech101_a", None),
    "sketch": ("pacs", "sketch"),
}
TEACHER = "mobilenetv2_imagenet.safetensors"
Encoder = Callable[[Tensor], Tensor]
Results = dict[tuple[str, int, bool], Tensor]  # (set, shots, centred) -> accuracy of each episode


def encoder(backbone: BundledBackbone, pooling: Pooling) -> Encoder:
    """Vectors of images in -1..1."""
    backbone = backbone.eval().to(memory_format=torch.channels_last)
    return lambda images: pool(backbone.features(images), pooling)


def teacher_encoder(teacher: Teacher) -> Encoder:
    """Pooled 1280 features."""
    teacher = teacher.to(memory_format=torch.channels_last)
    return lambda images: teacher(images)[2].mean((2, 3))


def rows(options: argparse.Namespace) -> dict[str, tuple[int, Encoder]]:
    """Every model with the input side it is judged at."""
    torch.manual_seed(0)
    table: dict[str, tuple[int, Encoder]] = {
        "raw pixels, 32 px": (32, lambda images: images.flatten(1)),
        "teacher, 128 px": (128, teacher_encoder(Teacher(options.data / TEACHER, stride=32))),
        "teacher dilated, 128 px": (128, teacher_encoder(Teacher(options.data / TEACHER))),
        "teacher, 192 px": (192, teacher_encoder(Teacher(options.data / TEACHER, stride=32))),
        "teacher, 224 px": (224, teacher_encoder(Teacher(options.data / TEACHER, stride=32))),
    }
    untrained = BundledBackbone()
    for size in options.sizes:
        table[f"untrained, {size} px"] = (size, encoder(untrained, "patches"))
    if options.references:
        return table
    for name, folder in {"bundled": options.weights, "other": options.against}.items():
        if folder is not None:
            for size in options.sizes:
                for pooling in ("patches", "cls", "cls+patches"):
                    table[f"{name} {pooling}, {size} px"] = (size, encoder(load_bundled(folder), pooling))
    return table


def judged(data: Path, size: int, encode: Encoder) -> Results:
    """Accuracy of every episode on the six sets."""
    results = {}
    for short, (name, split) in SETS.items():
        loaded = [(image, info["labels"][0]) for image, info, _ in reader(data).load(name, split)]
        found = vectors(pixels([image for image, _ in loaded], size), encode)
        labels = [label for _, label in loaded]
        for shots in (1, 5):
            for centre in (False, True):
                results[short, shots, centre] = accuracies(found, labels, shots=shots, centre=centre)
    return results


def mean_figure(results: Results, shots: int, centre: bool) -> Figure:
    """Mean of the six sets; the interval is over episodes."""
    return Figure.of(torch.stack([results[name, shots, centre] for name in SETS]).mean(0))


def table_row(name: str, results: Results) -> str:
    """One row of the Markdown table: "1-shot 5-shot" of each set, and the mean with intervals, plain and centred."""
    cells = [f"{100 * results[s, 1, False].mean():.1f} {100 * results[s, 5, False].mean():.1f}" for s in SETS]
    means = [f"{mean_figure(results, 1, c)}, {mean_figure(results, 5, c)}" for c in (False, True)]
    return "| " + " | ".join([name, *cells, *means]) + " |"


def comparison(name: str, a: Results, b: Results) -> str:
    """Paired difference of the means of six, a - b."""
    parts = []
    for shots in (1, 5):
        difference = torch.stack([a[s, shots, False] - b[s, shots, False] for s in SETS]).mean(0)
        parts.append(f"{shots}-shot {Figure.of(difference)}")
    return f"{name}: {', '.join(parts)}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--against", type=Path, help="folder of other weights, compared in pairs")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 192])
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--references", action="store_true", help="only what is not the bundled backbone")
    parser.add_argument("--masks", nargs="*", default=["weizmann_horses", "voc15"])
    parser.add_argument("--json", type=Path, help="write the accuracy of every episode to this file")
    options = parser.parse_args()
    every: dict[str, Results] = {}
    print("| model | " + " | ".join(SETS) + " | mean of six | centred on the supports |", flush=True)
    print("|---" * (len(SETS) + 3) + "|")
    for name, (size, encode) in rows(options).items():
        if options.only in name:
            every[name] = judged(options.data, size, encode)
            print(table_row(name, every[name]), flush=True)
    compare(every)
    for name in options.masks:
        masks.report(reader(options.data), name, options)
    if options.json:
        kept = {n: {"-".join(map(str, k)): v.tolist() for k, v in r.items()} for n, r in every.items()}
        options.json.write_text(json.dumps(kept))


def compare(every: dict[str, Results]) -> None:
    """Print every paired difference between the bundled weights and the rest at the same size, and to the teacher."""
    for name, results in every.items():
        if name.startswith("bundled"):
            for other in (name.replace("bundled", "other"), "teacher, 224 px", "teacher dilated, 128 px"):
                if other in every:
                    print(comparison(f"{name} - {other}", results, every[other]))


if __name__ == "__main__":
    main()
