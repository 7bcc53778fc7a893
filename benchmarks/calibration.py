"""What scores, "none of these" and label sets are worth, on classes never seen: calibration, open set, coverage.

    python benchmarks/calibration.py --data DATA [--backbone NAME] [--head HEAD] [--episodes 200] [--json FILE]

Episodes are 5-way with 1, 2 and 5 photos a class and 15 queries a class of the known and of (up to) five unknown
classes, on six sets that the bundled backbone never saw. Each episode fits a `FewShotClassifier` on features, as a user
would. Calibration error pools the queries of all episodes of a set (15 bins of equal width); "as is" is the softmax of
the plain scores over 0.1. AUROC tells known from unknown queries. "False alarms" are known queries rejected at
`reject=0.1`, "caught" unknown ones. "Coverage" is of `predict_set(0.9)`. The second table compares shares of the
supports' mean in the prototype head, paired on the same episodes against none.

The six sets served to choose the default share and the rule for the temperature, so these figures are slightly
optimistic. DATA holds the data sets and `read.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from fewsight import FewShotClassifier, load_backbone
from fewsight.backbones.encode import Encoder, encode_photos
from fewsight.evaluation.calibration import auroc, expected_calibration_error
from fewsight.evaluation.intervals import compare
from fewsight.heads.prototypes import Prototypes
from fewsight.seeding import numpy_generator

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import load_module

SETS = {
    "resisc12": None,
    "dtd10": None,
    "clothing10": None,
    "sign_digits": None,
    "caltech101_a": None,
    "pacs": "sketch",
}
SHOTS, WAYS, QUERIES = (1, 2, 5), 5, 15
REJECT, COVERAGE = 0.1, 0.9
CENTRINGS = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Episode(NamedTuple):
    """Rows of the data set; labels are class indices of the episode."""

    support: numpy.ndarray
    support_labels: numpy.ndarray
    known: numpy.ndarray
    known_labels: numpy.ndarray
    unknown: numpy.ndarray


def features_of(data: Path, name: str, split: str | None, encoder: Encoder) -> tuple[Tensor, numpy.ndarray]:
    """One vector a photo and class indices."""
    pictures, labels = [], []
    for picture, row, _ in load_module(data / "read.py", "shared_data_reader").load(name):
        if split is None or row["split"] == split:
            pictures.append(picture.convert("RGB"))
            labels.append(str(row["labels"]))
    vectors = torch.cat([batch.features.cls for batch in encode_photos(encoder, pictures)])
    return vectors, numpy.unique(labels, return_inverse=True)[1]


def episodes(labels: numpy.ndarray, shots: int, count: int) -> Iterator[Episode]:
    """Fixed episodes: the i-th is a function of i alone."""
    for index in range(count):
        draw = numpy_generator(0, "calibration episode", index)
        classes = draw.permutation(labels.max() + 1)[: 2 * WAYS]
        rows = [draw.permutation(numpy.flatnonzero(labels == k)) for k in classes]
        known = [order[shots : shots + QUERIES] for order in rows[:WAYS]]
        yield Episode(
            numpy.concatenate([order[:shots] for order in rows[:WAYS]]),
            numpy.repeat(numpy.arange(WAYS), shots),
            numpy.concatenate(known),
            numpy.repeat(numpy.arange(WAYS), [len(part) for part in known]),
            numpy.concatenate([order[:QUERIES] for order in rows[WAYS:]]),
        )


def judged(vectors: Tensor, labels: numpy.ndarray, shots: int, head: object, count: int) -> dict[str, float]:
    """The figures of one set."""
    figures, pooled = defaultdict(list), defaultdict(list)
    for episode in episodes(labels, shots, count):
        classifier = FewShotClassifier(head=head, reject=REJECT)
        classifier.fit(vectors[episode.support].numpy(), episode.support_labels)
        known, unknown = vectors[episode.known].numpy(), vectors[episode.unknown].numpy()
        scores, truth = classifier.scores(known), torch.from_numpy(episode.known_labels)
        figures["accuracy"].append((scores.argmax(1) == truth).double().mean().item())
        pooled["calibrated"].append(classifier.trust_.probabilities(scores))
        pooled["as is"].append(torch.softmax(scores / 0.1, dim=1))
        pooled["labels"].append(truth)
        novelty = [torch.from_numpy(classifier.novelty(part)) for part in (known, unknown)]
        side = torch.arange(len(known) + len(unknown)) >= len(known)
        figures["AUROC"].append(auroc(torch.cat(novelty), side))
        figures["false alarms"].append(classifier.rejected(known).mean())
        figures["caught"].append(classifier.rejected(unknown).mean())
        sets = classifier.predict_set(known, COVERAGE)
        figures["coverage"].append(sets[numpy.arange(len(known)), episode.known_labels].mean())
        figures["set size"].append(sets.sum(1).mean())
    together = {name: torch.cat(parts) for name, parts in pooled.items()}
    errors = {
        f"ECE {name}": expected_calibration_error(together[name], together["labels"])
        for name in ("as is", "calibrated")
    }
    return {name: float(numpy.mean(values)) for name, values in figures.items()} | errors


def centred(vectors: Tensor, labels: numpy.ndarray, shots: int, count: int) -> dict[float, list[list[float]]]:
    """Accuracy and AUROC of every episode, by share of the supports' mean that is subtracted."""
    found: dict[float, list[list[float]]] = {share: [[], []] for share in CENTRINGS}
    for episode in episodes(labels, shots, count):
        truth = torch.from_numpy(episode.known_labels)
        queries = torch.cat([vectors[episode.known], vectors[episode.unknown]])
        side = torch.arange(len(queries)) >= len(truth)
        membership = torch.eye(WAYS, dtype=torch.bool)[episode.support_labels]
        for share, (right, curve) in found.items():
            head = Prototypes(centring=share)
            scores = head.compare(queries, head.prepare(vectors[episode.support], membership))
            right.append((scores[: len(truth)].argmax(1) == truth).double().mean().item())
            curve.append(auroc(-scores.amax(1), side))
    return found


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", default="fewsight-bundled")
    parser.add_argument("--head", default="prototypes")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    encoder = Encoder(load_backbone(arguments.backbone), vectors=True)
    held = {name: features_of(arguments.data, name, split, encoder) for name, split in SETS.items()}
    results = {}
    for shots in SHOTS:
        for name, (vectors, labels) in held.items():
            results[f"{name}, {shots}-shot"] = judged(
                vectors, labels, shots, arguments.head, arguments.episodes
            )
        rows = [results[f"{name}, {shots}-shot"] for name in SETS]
        results[f"mean, {shots}-shot"] = {
            key: float(numpy.mean([row[key] for row in rows])) for key in rows[0]
        }
    print_table(results)
    print_centring(held, arguments.episodes)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def print_table(results: dict[str, dict[str, float]]) -> None:
    """One row for each set and number of shots."""
    columns = list(next(iter(results.values())))
    print("| | " + " | ".join(columns) + " |\n" + "|---" * (1 + len(columns)) + "|")
    for name, row in results.items():
        cells = [f"{row[c]:.2f}" if c == "set size" else f"{100 * row[c]:.1f}" for c in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")


def print_centring(held: dict[str, tuple[Tensor, numpy.ndarray]], count: int) -> None:
    """Mean over the sets by share, and the paired sentence for each share against none."""
    print("\n| share of the mean | " + " | ".join(f"{s}-shot accuracy | AUROC" for s in SHOTS) + " |")
    print("|---" * (1 + 2 * len(SHOTS)) + "|")
    found = {
        shots: [centred(vectors, labels, shots, count) for vectors, labels in held.values()]
        for shots in SHOTS
    }
    for share in CENTRINGS:
        cells = [
            f"{100 * numpy.mean([one[share][measure] for one in found[shots]]):.2f}"
            for shots in SHOTS
            for measure in (0, 1)
        ]
        print(f"| {share} | " + " | ".join(cells) + " |")
    for shots in SHOTS:
        for share in (0.7, 1.0):
            first, second = (
                numpy.concatenate([one[which][0] for one in found[shots]]) for which in (share, 0.0)
            )
            print(
                f"\n{shots}-shot: " + compare(first, second, names=(f"share {share}", "no centring")).sentence
            )


if __name__ == "__main__":
    main()
