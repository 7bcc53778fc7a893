"""Pictures for the tests of the data room, made from seeds."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """`picture(seed, height, width)`: a smooth scene with grain, as a camera gives."""

    def make(seed: int = 0, height: int = 96, width: int = 128) -> Image.Image:
        generator = numpy.random.default_rng(seed)
        scene = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=numpy.uint8))
        smooth = numpy.asarray(scene.resize((width, height), Image.Resampling.BICUBIC)).astype(numpy.float64)
        grain = generator.normal(0, 4, smooth.shape)
        return Image.fromarray((smooth + grain).clip(0, 255).astype(numpy.uint8))

    return make


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """`encoded(image, "JPEG", **options)`: the content of a file."""

    def make(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
        content = io.BytesIO()
        image.save(content, kind, **options)
        return content.getvalue()

    return make


@pytest.fixture
def write(picture, encoded) -> Callable[..., Path]:
    """`write(path)`: a small JPEG there, with its folders; `write(path, content)`: these bytes."""

    def make(path: Path, content: bytes | None = None, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(seed, 24, 32)) if content is None else content)
        return path

    return make
