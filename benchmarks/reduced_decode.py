"""What decoding a JPEG at reduced scale does to features and few-shot accuracy, beside decoding all of it.

    python benchmarks/reduced_decode.py [--data DATA]

Two cases, each photo decoded both ways, then resized and cropped alike, then the bundled backbone:

- real photos of 128 px and more at an input of 64 px: the reduced picture is exactly as large as needed and nothing
  is left to resize, which is the worst case;
- the same photos enlarged to a shorter side of 1,067 px with fine noise, at an input of 192 px.

Printed: cosine of the two features (mean, lowest), and the paired difference of accuracy, reduced - whole, 5-way over
600 episodes with 10 queries a class. DATA holds the data sets and `read.py`.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fewsight.backbones.bundled import load_bundled
from fewsight.data.decode import decode_bytes
from fewsight.data.loading import apply_transform, needed_size
from fewsight.seeding import numpy_generator

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "distil"))

from judge import Figure, accuracies
from views import reader

QUALITY, NOISE, LARGE = 90, 3.0, 1067


def jpeg(image: Image.Image, large: bool, number: int) -> bytes:
    """The photo as a JPEG file, as it is or enlarged with noise."""
    if large:
        scale = LARGE / min(image.size)
        image = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
        )
        noise = numpy_generator(0, "noise", number).normal(0, NOISE, (image.height, image.width, 3))
        image = Image.fromarray(numpy.clip(numpy.asarray(image) + noise, 0, 255).astype(numpy.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


@torch.inference_mode()
def both(
    data: Path, name: str, split: str | None, size: int, large: bool
) -> tuple[list[Tensor], list[str], int]:
    """Features of every photo decoded whole and reduced, labels, and how many photos were reduced."""
    backbone = load_bundled()
    transform = replace(backbone.transform, size=(size, size))
    rows: tuple[list[Tensor], list[Tensor]] = ([], [])
    labels, reduced = [], 0
    for number, (image, info, _) in enumerate(reader(data).load(name, split)):
        content = jpeg(image, large, number)
        pictures = [decode_bytes(content).image, decode_bytes(content, needed=needed_size(transform)).image]
        reduced += pictures[0].shape != pictures[1].shape
        batch = torch.stack([apply_transform(picture, transform) for picture in pictures])
        for part, row in zip(rows, backbone(batch), strict=True):
            part.append(row)
        labels.append(info["labels"][0])
    return [torch.stack(part) for part in rows], labels, reduced


def line(name: str, features: list[Tensor], labels: list[str], reduced: int) -> str:
    """One row of the table."""
    whole, small = features
    cosine = F.cosine_similarity(whole, small)
    cells = []
    for shots in (1, 5):
        one, two = (accuracies(part, labels, shots=shots) for part in (whole, small))
        cells.append(f"{100 * one.mean():.1f}, {Figure.of(two - one)}")
    return (
        f"| {name} | {reduced} of {len(labels)} | {cosine.mean():.4f}, {cosine.min():.4f} | "
        + " | ".join(cells)
        + " |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("FEWSIGHT_SHARED", "../shared")) / "data"
    )
    parser.add_argument(
        "--real", nargs="*", default=["caltech101_a", "dtd10", "resisc12", "clothing10", "pacs"]
    )
    parser.add_argument("--enlarged", nargs="*", default=["dtd10", "resisc12"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| photos | decoded smaller | cosine: mean, lowest | 1-shot: whole, difference | 5-shot |")
    print("|---|---|---|---|---|")
    for names, size, large in ((options.real, 64, False), (options.enlarged, 192, True)):
        for name in names:
            split = "photo" if name == "pacs" else None
            title = f"{name}, {'enlarged, ' if large else ''}{size} px"
            print(line(title, *both(options.data, name, split, size, large)), flush=True)


if __name__ == "__main__":
    main()
