"""What the bundled backbone is worth beside raw pixels, the same network untrained, and its teacher.

    python benchmarks/bundled_backbone.py --data DATA [--against FOLDER] [--sizes 128 192] [--json FILE]
    python benchmarks/bundled_backbone.py --data DATA --seeds FOLDER FOLDER FOLDER --sizes 192

Few-shot: 5-way, 600 episodes of a fixed seed, 10 queries a class, cosine to the mean prototype, on six sets that
training never saw; every model sees the same episodes, so differences are paired. Object against background:
area under the ROC curve of patches by attention, class query and keys, on photos with masks. With `--seeds`, only
weights of several training seeds are judged: each, their mean, and the standard deviation between them.
DATA holds the data sets, `read.py`, and the teacher's file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.bundled import WEIGHTS, BundledBackbone, load_bundled
from fewsight.backbones.features import Pooling, pool
from fewsight.backbones.precision import at_precision
from fewsight.devices import resolve_precision

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "distil"))

import masks
from judge import Figure, accuracies, pixels, vectors
from teacher import Teacher
from views import reader

SETS = {
    "resisc": ("resisc12", None),
    "dtd": ("dtd10", None),
    "clothing": ("clothing10", None),
    "signs": ("sign_digits", None),
    "caltech": ("caltech101_a", None),
    "sketch": ("pacs", "sketch"),
}
POOLINGS: tuple[Pooling, ...] = ("patches", "cls", "cls+patches")
TEACHER = "mobilenetv2_imagenet.safetensors"
Encoder = Callable[[Tensor], Tensor]
Results = dict[tuple[str, int, bool], Tensor]  # (set, shots, centred) -> accuracy of each episode


def encoder(backbone: Backbone, poolings: tuple[Pooling, ...], dtype: torch.dtype = torch.float32) -> Encoder:
    """Vectors of images in -1..1, by each pooling side by side."""
    backbone = at_precision(backbone.eval(), dtype, torch.device("cpu"))

    def encode(images: Tensor) -> Tensor:
        features = backbone.features(images.to(dtype)).to("cpu", torch.float32)
        return torch.cat([pool(features, pooling) for pooling in poolings], dim=1)

    return encode


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
        "teacher, 224 px": (224, teacher_encoder(Teacher(options.data / TEACHER, stride=32))),
    }
    untrained = BundledBackbone()
    for size in options.sizes:
        table[f"untrained, {size} px"] = (size, encoder(untrained, ("patches",)))
    return table


def bundled_rows(options: argparse.Namespace) -> Iterator[tuple[list[str], int, Encoder]]:
    """The bundled weights and those they are compared with: the rows of one encoding, its size, the encoding."""
    for folder in options.seeds or filter(None, (options.weights, options.against)):
        for size in options.sizes:
            names = [row_name(folder, pooling, size, options.precision) for pooling in POOLINGS]
            yield names, size, encoder(load_bundled(folder), POOLINGS, resolve_precision(options.precision))


def row_name(weights: Path, pooling: Pooling, size: int, precision: str) -> str:
    """Weights by the start of their SHA-256, so that kept results are never taken for those of other weights."""
    sha256 = json.loads((weights / "bundled.json").read_text())["sha256"]
    return f"bundled {sha256[:8]}, {pooling}, {size} px{'' if precision == 'fp32' else f', {precision}'}"


def judged(data: Path, size: int, encode: Encoder, widths: tuple[int, ...] = ()) -> list[Results]:
    """Accuracy of every episode on the six sets, for each group of columns that `encode` gives (default: one)."""
    results: list[Results] = [{} for _ in widths or (0,)]
    for short, (name, split) in SETS.items():
        loaded = [(image, info["labels"][0]) for image, info, _ in reader(data).load(name, split)]
        found = vectors(pixels([image for image, _ in loaded], size), encode)
        labels = [label for _, label in loaded]
        for part, result in zip(found.split(widths or found.shape[1], dim=1), results, strict=True):
            for shots in (1, 5):
                for centre in (False, True):
                    result[short, shots, centre] = accuracies(part, labels, shots=shots, centre=centre)
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


def between_seeds(every: dict[str, Results], names: list[str]) -> str:
    """Mean of the six sets by seed, and mean and standard deviation over the seeds, each set and all six."""
    lines = []
    for centre in (False, True):
        for shots in (1, 5):
            by_set = torch.stack(
                [torch.stack([every[name][s, shots, centre].mean() for s in SETS]) for name in names]
            )
            by_set = 100 * torch.cat([by_set, by_set.mean(1, keepdim=True)], dim=1)  # [seeds, 7]
            cells = [f"{m:.1f} ±{d:.1f}" for m, d in zip(by_set.mean(0), by_set.std(0), strict=True)]
            each = ", ".join(f"{mean:.2f}" for mean in by_set[:, -1])
            kind = f"{shots}-shot{', centred' if centre else ''}"
            lines.append("| " + " | ".join([kind, *cells, each]) + " |")
    return "\n".join(lines)


def judge_bundled(every: dict[str, Results], options: argparse.Namespace) -> None:
    """Judge the weights that are asked for, by each pooling, and print their rows."""
    dims = tuple(BundledBackbone.dim * (1 + ("+" in pooling)) for pooling in POOLINGS)
    for names, size, encode in bundled_rows(options):
        if not every.keys() >= set(names):
            every.update(zip(names, judged(options.data, size, encode, dims), strict=True))
            keep(options.json, every)
        print(*(table_row(name, every[name]) for name in names), sep="\n", flush=True)


def judge_seeds(every: dict[str, Results], options: argparse.Namespace) -> None:
    """Judge the weights of several seeds, and print how they differ."""
    judge_bundled(every, options)
    for size in options.sizes if len(options.seeds) > 1 else ():
        print(f"mean ± standard deviation of {len(options.seeds)} seeds, patches, {size} px")
        print("| | " + " | ".join(SETS) + " | mean of six | seed by seed |")
        print(
            between_seeds(
                every, [row_name(folder, "patches", size, options.precision) for folder in options.seeds]
            )
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--against", type=Path, help="folder of other weights, compared in pairs")
    parser.add_argument("--seeds", type=Path, nargs="+", help="folders of weights that differ by their seed")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 192])
    parser.add_argument("--references", action="store_true", help="only what is not the bundled backbone")
    parser.add_argument("--masks", nargs="*", default=["weizmann_horses", "voc15"])
    parser.add_argument(
        "--json", type=Path, help="keep the accuracy of every episode here; kept rows are not run again"
    )
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of bundled weights")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    every = kept(options.json)
    if options.seeds:
        return judge_seeds(every, options)
    print("| model | " + " | ".join(SETS) + " | mean of six | centred on the supports |", flush=True)
    print("|---" * (len(SETS) + 3) + "|")
    for name, (size, encode) in rows(options).items():
        if name not in every:
            [every[name]] = judged(options.data, size, encode)
            keep(options.json, every)
        print(table_row(name, every[name]), flush=True)
    if not options.references:
        judge_bundled(every, options)
    compare(every, options)
    for name in options.masks:
        masks.report(reader(options.data), name, options)


def kept(path: Path | None) -> dict[str, Results]:
    """Results of earlier runs, as `keep` wrote them."""
    if path is None or not path.exists():
        return {}
    return {
        name: {
            (s, int(k), c == "True"): torch.tensor(v)
            for (s, k, c), v in ((t.split("-"), v) for t, v in r.items())
        }
        for name, r in json.loads(path.read_text()).items()
    }


def keep(path: Path | None, every: dict[str, Results]) -> None:
    """Write the accuracy of every episode."""
    if path is not None:
        plain = {n: {"-".join(map(str, k)): v.tolist() for k, v in r.items()} for n, r in every.items()}
        path.write_text(json.dumps(plain))


def compare(every: dict[str, Results], options: argparse.Namespace) -> None:
    """Print the paired differences of the bundled weights from the other ones, from the teacher, from pixels."""
    for size in options.sizes:
        others = ["teacher, 224 px", "teacher dilated, 128 px", f"untrained, {size} px", "raw pixels, 32 px"]
        if options.against:
            others.insert(0, row_name(options.against, "patches", size, options.precision))
        for pooling in POOLINGS:
            name = row_name(options.weights, pooling, size, options.precision)
            for other in others:
                if name in every and other in every:
                    print(comparison(f"{name} - {other}", every[name], every[other]))


if __name__ == "__main__":
    main()
