"""Small shards for tests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy
from PIL import Image


def photo(number: int, side: int = 40, kind: str = "JPEG") -> bytes:
    """A photo of its own for each number."""
    generator = numpy.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=numpy.uint8))
    file = io.BytesIO()
    coarse.resize((side + number % 7, side), Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_shards(folder: Path, counts: list[int], *, labels: bool = False) -> list[Path]:
    """Shards with so many photos each; photos are numbered through, and labelled a or b in turn."""
    files, number = [], 0
    for shard, count in enumerate(counts):
        members = []
        for _ in range(count):
            members.append((f"p/{number:05d}.jpg", photo(number)))
            if labels:
                members.append((f"p/{number:05d}.cls", b"ab"[number % 2 : number % 2 + 1]))
            number += 1
        files.append(write_tar(folder / f"photos-{shard:06d}.tar", members))
    return files
