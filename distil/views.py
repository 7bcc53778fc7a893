"""Views: the pictures that student and teacher both see, 128 px, cut from the training images once and kept.

Each view is a function of (seed, image, view): crop at one of four scales, aspect, flip, brightness, contrast,
saturation, grey. Crops larger than the image have a mirrored border: from a 64-px photo they give sharp pixels.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy
from PIL import Image, ImageFilter, ImageOps

from fewsight.seeding import numpy_generator

SIZE = 128
SCALES = ((0.5, 1.0), (1.0, 1.8), (0.5, 1.0), (0.75, 1.25))  # of the shorter side, in the order of the views
HELD_OUT = 15  # images of each tiny_imagenet class kept for choosing between runs


@dataclass(frozen=True)
class Source:
    """What one data set gives to a block of views."""

    name: str
    first: int  # number of its first view
    views: int  # of each image
    every: int = 1  # image of those in reach
    split: str | None = None
    only: tuple[str, str] | None = None  # column and value that an image must have


BLOCKS: tuple[
    tuple[tuple[Source, ...], float], ...
] = (  # the sources, and the share of views made line drawings
    ((Source("tiny_imagenet", 0, 2), Source("imagenet_one_each", 0, 5)), 0.0),
    (
        (
            Source("tiny_imagenet", 2, 1),
            Source("imagenet_one_each", 5, 10),
            Source("cifar100", 0, 1, every=4, split="train", only=("cifar_fs", "train")),
            Source("omniglot", 1, 1, every=10, split="train"),
        ),
        0.08,
    ),
)


def reader(data: Path) -> ModuleType:
    """The module `read.py` that lies beside the data sets."""
    spec = importlib.util.spec_from_file_location("data_reader", data / "read.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def source_images(data: Path, source: Source) -> Iterator[Image.Image]:
    """The training images of a source: none that is held out, none of the classes its few-shot tests use."""
    seen: Counter[str] = Counter()
    large = {"size": 105} if source.name == "omniglot" else {}
    number = 0
    for image, info, _ in reader(data).load(source.name, source.split, **large):
        seen[info["labels"][0]] += 1
        if source.name == "tiny_imagenet" and seen[info["labels"][0]] <= HELD_OUT:
            continue
        if source.only is not None and info[source.only[0]] != source.only[1]:
            continue
        if number % source.every == 0:
            yield ImageOps.invert(image.convert("RGB")) if large else image  # black ink on white paper
        number += 1


def held_out(data: Path) -> tuple[list[Image.Image], list[str]]:
    """The tiny_imagenet images that are not trained on, and their classes."""
    images, labels, seen = [], [], {}
    for image, info, _ in reader(data).load("tiny_imagenet"):
        label = info["labels"][0]
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= HELD_OUT:
            images.append(image)
            labels.append(label)
    return images, labels


def write_views(data: Path, target: Path, *, seed: int, block: int) -> int:
    """Write the views of one block as uint8 `[N, 128, 128, 3]`; returns N."""
    sources, lines = BLOCKS[block]
    images = [(image, source) for source in sources for image in source_images(data, source)]
    total = sum(source.views for _, source in images)
    out = numpy.lib.format.open_memmap(target, mode="w+", dtype=numpy.uint8, shape=(total, SIZE, SIZE, 3))
    order = numpy_generator(seed, "view order", block).permutation(
        total
    )  # neighbours in the file are unrelated
    row = 0
    for number, (image, source) in enumerate(images):
        for view in range(source.first, source.first + source.views):
            rng = numpy_generator(seed, "view", number, view)
            pixels = cut(image, SCALES[view % 4], rng)
            out[order[row]] = line_drawing(pixels) if rng.random() < lines else pixels
            row += 1
    out.flush()
    return total


def line_drawing(pixels: numpy.ndarray) -> numpy.ndarray:
    """Dark contours on white, as a pencil would draw them."""
    smooth = Image.fromarray(pixels).convert("L").filter(ImageFilter.GaussianBlur(1.5))
    drawn = smooth.filter(ImageFilter.CONTOUR).crop((1, 1, SIZE - 1, SIZE - 1)).resize((SIZE, SIZE))
    return numpy.asarray(ImageOps.autocontrast(drawn, cutoff=(1, 0)).convert("RGB"))


def cut(image: Image.Image, scales: tuple[float, float], rng: numpy.random.Generator) -> numpy.ndarray:
    """One view, uint8 `[128, 128, 3]`."""
    width, height = image.size
    side, aspect = min(width, height) * rng.uniform(*scales), numpy.exp(rng.uniform(-0.12, 0.12))
    box_w, box_h = side * aspect, side / aspect
    left = rng.uniform(min(0.0, width - box_w), max(0.0, width - box_w))
    top = rng.uniform(min(0.0, height - box_h), max(0.0, height - box_h))
    border = int(numpy.ceil(max(0.0, box_w - width, box_h - height)))
    if border:
        pixels = numpy.pad(
            numpy.asarray(image), ((border, border), (border, border), (0, 0)), mode="symmetric"
        )
        image, left, top = Image.fromarray(pixels), left + border, top + border
    view = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, (left, top, left + box_w, top + box_h))
    if rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _recolour(numpy.asarray(view, dtype=numpy.float32), rng)


def _recolour(pixels: numpy.ndarray, rng: numpy.random.Generator) -> numpy.ndarray:
    brightness, contrast = rng.uniform(0.7, 1.3), rng.uniform(0.7, 1.3)
    saturation = 0.0 if rng.random() < 0.1 else rng.uniform(0.6, 1.4)
    grey = pixels @ numpy.array([0.299, 0.587, 0.114], dtype=numpy.float32)
    level = grey.mean()
    pixels = grey[..., None] * (1 - saturation) + pixels * saturation
    pixels = ((pixels - level) * contrast + level) * brightness
    return numpy.clip(numpy.rint(pixels), 0, 255).astype(numpy.uint8)
