"""JPEG files of 1600 px to normalised crops of 224 px, beside plain Pillow: decode all, resize all, crop, normalise.

    python benchmarks/decode.py [--photos 12] [--repetitions 5] [--out FOLDER]

The photos are made: soft shapes with fine noise, 1600 x 1067, quality 90. Both
run in turn in one process and one thread, on CPU time; small photos of 500 x 375 stand beside for comparison.
The largest difference of pixels (of 255) after the crop says what decoding at reduced scale costs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy
import torch
from PIL import Image

from fewsight.data.loading import photos
from fewsight.data.transform import Transform
from fewsight.seeding import numpy_generator
from measure import compare, table

TRANSFORM = Transform(size=(224, 224), crop_fraction=0.875)
MEAN, STD = numpy.float32(TRANSFORM.mean), numpy.float32(TRANSFORM.std)
NOISE = 3.0  # of 255; gives files of the size that cameras give


def make_photos(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """JPEG files of made content."""
    files = []
    for number in range(count):
        generator = numpy_generator(0, "photos", number)
        coarse = generator.integers(0, 255, (size[1] // 40, size[0] // 40, 3), dtype=numpy.uint8)
        soft = numpy.asarray(
            Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), dtype=numpy.int16
        )
        noisy = numpy.clip(soft + generator.normal(0, NOISE, soft.shape), 0, 255).astype(numpy.uint8)
        files.append(folder / f"{size[0]}-{number}.jpg")
        Image.fromarray(noisy).save(files[-1], quality=90)
    return files


def plain(files: list[Path]) -> torch.Tensor:
    """Decode, resize the shorter side to 256 by bicubic, cut out 224, normalise."""
    images = []
    for file in files:
        image = Image.open(file).convert("RGB")
        scale = 256 / min(image.size)
        width, height = (int(side * scale + 1e-9) for side in image.size)  # cut, as torchvision does
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - 224) / 2), round((height - 224) / 2)
        pixels = numpy.asarray(image.crop((left, top, left + 224, top + 224)), dtype=numpy.float32) / 255
        images.append(torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1))
    return torch.stack(images)


def ours(files: list[Path]) -> torch.Tensor:
    """The loader, in the caller's thread, as one batch."""
    [batch] = photos(files, TRANSFORM, len(files), 0)
    return batch.images


def measured(files: list[Path], repetitions: int) -> str:
    """One table for photos of one size."""
    costs = compare({"plain Pillow": lambda: plain(files), "ours": lambda: ours(files)}, repetitions)
    rates = ", ".join(f"{name} {len(files) / cost.seconds:.0f}/s" for name, cost in costs.items())
    apart = (ours(files) - plain(files)).abs().mul(torch.tensor(TRANSFORM.std).view(3, 1, 1) * 255)
    width, height = Image.open(files[0]).size
    kilobytes = sum(file.stat().st_size for file in files) / len(files) / 1e3
    return (
        f"{width} x {height}, {kilobytes:.0f} kB: {rates}; "
        f"pixels differ by {apart.mean():.2f} on average, {apart.max():.0f} at most\n{table(costs, 'plain Pillow')}\n"
    )


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=12)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = options.out or Path(made)
        for size in ((1600, 1067), (500, 375)):
            print(measured(make_photos(folder, options.photos, size), options.repetitions))


if __name__ == "__main__":
    main()
