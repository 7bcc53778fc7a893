"""Procedural scenes: textured, deforming, overlapping objects of many classes among clutter, with masks.

For tests, demonstrations and training without photos. A class is an outline and a texture; colours are drawn
anew for every object and for the clutter from the same range, so that no threshold of colour finds an object.
Scene i is a function of (seed, i) alone: no order of calls, number of workers or size of a set changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy
from numpy.typing import NDArray

from fewsight.errors import InvalidInput
from fewsight.seeding import numpy_generator

__all__ = ["Scene", "Scenes"]

Array = NDArray[numpy.float64]

TEXTURES = ("stripes", "checks", "dots", "rings", "waves", "spokes")
SMALLEST = 0.01
"""Objects that show less than this share of the scene are painted over, not labelled."""


class Scene(NamedTuple):
    """`image` uint8 [H, W, 3]; `mask` int64 [H, W], 0 = background, c + 1 = class c; `labels` ascending classes."""

    image: NDArray[numpy.uint8]
    mask: NDArray[numpy.int64]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Scenes:
    """An endless set of scenes.

    Attributes:
        seed: of classes and scenes.
        split: `"base"` classes for training, `"novel"` classes for tests (every fourth), or `"all"`.
        num_classes: of both splits together.
        size: height and width in pixels.
        objects: fewest and most objects of a scene; objects may hide one another.

    Raises:
        InvalidInput: a setting is out of range.

    >>> scene = Scenes(seed=0, size=32)[5]
    >>> scene.image.shape, sorted(set(scene.mask.flatten().tolist()) - {0}) == [c + 1 for c in scene.labels]
    ((32, 32, 3), True)
    """

    seed: int
    split: Literal["base", "novel", "all"] = "base"
    num_classes: int = 48
    size: int = 128
    objects: tuple[int, int] = (1, 4)

    def __post_init__(self) -> None:
        fewest, most = self.objects
        if self.split not in ("base", "novel", "all"):
            raise InvalidInput(f"split is {self.split!r}; expected 'base', 'novel' or 'all'.")
        if self.num_classes < 4 or self.size < 16 or not 1 <= fewest <= most:
            raise InvalidInput(
                f"num_classes, size and objects are {self.num_classes}, {self.size} and {self.objects}; expected at "
                "least 4, 16 and (1, 1)."
            )

    @property
    def classes(self) -> tuple[int, ...]:
        """Classes of the split: base and novel ones have none in common."""
        novel = {"base": (False,), "novel": (True,), "all": (False, True)}[self.split]
        return tuple(c for c in range(self.num_classes) if (c % 4 == 3) in novel)

    def __getitem__(self, index: int) -> Scene:
        return self.scene(index)

    def scene(self, index: int, *, include: Sequence[int] = (), exclude: Sequence[int] = ()) -> Scene:
        """Scene `index`; with `include` it shows these classes (in front), with `exclude` none of those.

        Raises:
            InvalidInput: a class is not of the split, or the index is negative.
        """
        allowed = [c for c in self.classes if c not in exclude]
        if not set(include) <= set(allowed) or not allowed or index < 0:
            raise InvalidInput(
                f"index is {index}, include {list(include)}, exclude {list(exclude)}; expected classes of "
                f"{list(self.classes)}, some left over, and an index of at least 0."
            )
        draw = numpy_generator(
            self.seed, f"scene {self.split}", index, *sorted(include), -1, *sorted(exclude)
        )
        count = max(len(include), int(draw.integers(self.objects[0], self.objects[1] + 1)))
        drawn = [int(c) for c in draw.choice(allowed, count - len(include))]
        while True:
            image, mask = self._paint(draw, [*drawn, *include])
            present = tuple(int(value) - 1 for value in numpy.unique(mask) if value)
            # An included class may be hidden by another one: paint again, further down the same stream.
            if set(include) <= set(present):
                return Scene(image, mask, present)

    def _paint(
        self, draw: numpy.random.Generator, classes: Sequence[int]
    ) -> tuple[NDArray[numpy.uint8], NDArray[numpy.int64]]:
        image = _background(draw, self.size)
        mask = numpy.zeros((self.size, self.size), dtype=numpy.int64)
        for _ in range(int(draw.integers(4, 9))):
            _clutter(draw, image)
        for number in classes:
            # The same object twice gives one mask: the later one hides the earlier where they overlap.
            mask[_paste(draw, image, _look(self.seed, number), scale=(0.16, 0.30))] = number + 1
        _clutter(draw, image, mask)
        image += draw.normal(0, 0.03, image.shape) + draw.normal(0, 0.05)
        for value, area in zip(*numpy.unique(mask, return_counts=True), strict=True):
            if value and area < SMALLEST * mask.size:
                mask[mask == value] = 0
        return (image.clip(0, 1) * 255).round().astype(numpy.uint8), mask


class _Look(NamedTuple):
    """What the objects of a class share: outline r(θ) = 1 + Σ a_k cos(k θ + φ_k), and a texture."""

    amplitude: Array  # [6]
    phase: Array  # [6]
    texture: str
    frequency: float
    angle: float


@lru_cache(maxsize=1024)
def _look(seed: int, number: int) -> _Look:
    draw = numpy_generator(seed, "scene class", number)
    amplitude = draw.normal(0, 1, 6) * numpy.array([0.10, 0.24, 0.2, 0.16, 0.12, 0.08])
    return _Look(
        amplitude,
        draw.uniform(0, 2 * numpy.pi, 6),
        TEXTURES[int(draw.integers(len(TEXTURES)))],
        float(draw.choice([2.0, 3.2, 5.0])),
        float(draw.uniform(0, numpy.pi)),
    )


def _paste(
    draw: numpy.random.Generator, image: Array, look: _Look, *, scale: tuple[float, float]
) -> NDArray[numpy.bool_]:
    """Paint one deformed object into the image and return where it is."""
    x, y, window = _object_coordinates(draw, image.shape[0], draw.uniform(*scale))
    amplitude = look.amplitude + draw.normal(0, 0.035, look.amplitude.shape)
    # The outline is tabulated every half degree: a series for each pixel would take most of the time.
    directions = numpy.linspace(-numpy.pi, numpy.pi, 721)
    order = numpy.arange(1, len(amplitude) + 1)
    outline = 1 + (amplitude * numpy.cos(directions[:, None] * order + look.phase)).sum(-1)
    nearest = ((numpy.arctan2(y, x) + numpy.pi) * (360 / numpy.pi)).round().astype(int)
    inside = numpy.hypot(x, y) < outline.clip(0.3)[nearest]
    pattern = _texture(look, x, y)[..., None]
    first, second = _two_colours(draw)
    shading = 1 + 0.35 * (x * draw.normal(0, 0.5) + y * draw.normal(0, 0.5))
    colour = (first * pattern + second * (1 - pattern)) * shading[..., None].clip(0.4, 1.6)
    image[window][inside] = colour[inside]
    where = numpy.zeros(image.shape[:2], dtype=bool)
    where[window] = inside
    return where


def _object_coordinates(
    draw: numpy.random.Generator, size: int, scale: float
) -> tuple[Array, Array, tuple[slice, slice]]:
    """Coordinates in units of the object's radius under a random shift, turn, stretch, shear and smooth warp.

    They are made for a window of three radii around the object's centre, which comes third.
    """
    centre = draw.uniform(0.15, 0.85, 2)
    across, down = (
        slice(max(0, int((c - 3 * scale) * size)), min(size, int((c + 3 * scale) * size) + 1)) for c in centre
    )
    rows, columns = numpy.mgrid[down, across] / size
    x, y = (columns - centre[0]) / scale, (rows - centre[1]) / scale
    turn, stretch, shear = draw.normal(0, 0.35), numpy.exp(draw.normal(0, 0.18)), draw.normal(0, 0.15)
    cosine, sine = numpy.cos(turn), numpy.sin(turn)
    x, y = (cosine * x + sine * y) * stretch, (cosine * y - sine * x) / stretch
    x = x + shear * y
    phase = draw.uniform(0, 2 * numpy.pi, 4)
    bend = draw.uniform(0.04, 0.14)
    return (
        x + bend * numpy.sin(2.1 * y + phase[0]) + 0.5 * bend * numpy.sin(4.3 * x + phase[1]),
        y + bend * numpy.sin(2.3 * x + phase[2]) + 0.5 * bend * numpy.sin(3.9 * y + phase[3]),
        (down, across),
    )


def _texture(look: _Look, x: Array, y: Array) -> Array:
    """Share of the first colour, in [0, 1], in coordinates of the object: the texture deforms with it."""
    u = numpy.cos(look.angle) * x + numpy.sin(look.angle) * y
    v = numpy.cos(look.angle) * y - numpy.sin(look.angle) * x
    f = numpy.pi * look.frequency
    fields = {
        "stripes": lambda: numpy.sin(f * u),
        "checks": lambda: numpy.sin(f * u) * numpy.sin(f * v) * 2,
        "dots": lambda: numpy.cos(f * u) + numpy.cos(f * v) - 0.8,
        "rings": lambda: numpy.sin(f * numpy.hypot(u, v)),
        "waves": lambda: numpy.sin(f * u + 2 * numpy.sin(f * v / 2)),
        "spokes": lambda: numpy.sin(2 * look.frequency * numpy.arctan2(v, u)),
    }
    field: Array = fields[look.texture]()
    return 1 / (1 + numpy.exp(-6 * field))


def _two_colours(draw: numpy.random.Generator) -> tuple[Array, Array]:
    """Two colours that can be told apart, from the range that objects, clutter and background share."""
    first = draw.uniform(0.05, 0.95, 3)
    while True:
        second = draw.uniform(0.05, 0.95, 3)
        if numpy.abs(first - second).max() > 0.35:
            return first, second


def _background(draw: numpy.random.Generator, size: int) -> Array:
    """Smooth noise of three scales between two colours."""
    first, second = _two_colours(draw)
    field = sum(_noise(draw, size, cells) * weight for cells, weight in ((3, 1.0), (8, 0.6), (20, 0.3)))
    share = 1 / (1 + numpy.exp(-3 * field))[..., None]
    return first * share + second * (1 - share)


def _noise(draw: numpy.random.Generator, size: int, cells: int) -> Array:
    """Normal values on a coarse grid, interpolated bilinearly to [size, size]."""
    grid = draw.normal(0, 1, (cells + 1, cells + 1))
    at = numpy.linspace(0, cells, size)
    low = numpy.minimum(at.astype(int), cells - 1)
    part = at - low
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def _clutter(draw: numpy.random.Generator, image: Array, mask: NDArray[numpy.int64] | None = None) -> None:
    """A patch of some outline and texture of no class; in front of the objects where their mask is given."""
    look = _Look(
        draw.normal(0, 0.2, 6),
        draw.uniform(0, 2 * numpy.pi, 6),
        TEXTURES[int(draw.integers(len(TEXTURES)))],
        float(draw.uniform(0.5, 8)),
        float(draw.uniform(0, numpy.pi)),
    )
    where = _paste(draw, image, look, scale=(0.04, 0.16) if mask is None else (0.04, 0.08))
    if mask is not None:
        mask[where] = 0
