"""Targets: what the dilated teacher says of each view, computed once and kept.

A view is seen at 128 px, and mirrored at 224 px; unit-length pooled features of the two are added (the teacher
alone is better by two points so), and so are their dense maps, mirrored back and pooled to 8 x 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from teacher import Teacher
from torch import Tensor

GRID = 8
LARGE = 224
POOLED_DIMS, DENSE_DIMS = 512, 256
FITTED_ON = 1536  # views that the dense principal components are fitted on


@dataclass(frozen=True)
class Basis:
    """Principal components: `project` gives scores divided by the fourth root of their variance."""

    mean: Tensor  # [D]
    axes: Tensor  # [D, P]
    variance: Tensor  # [P]

    @classmethod
    def fit(cls, rows: Tensor, dims: int) -> Basis:
        """Of rows `[N, D]`."""
        mean = rows.mean(0)
        variance, axes = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        return cls(mean, axes[:, -dims:].flip(1), variance[-dims:].flip(0).clamp_min(1e-12))

    def project(self, rows: Tensor) -> Tensor:
        """`[..., D]` to `[..., P]`."""
        return (rows - self.mean) @ self.axes * self.variance**-0.25


def normalised(views: numpy.ndarray) -> Tensor:
    """uint8 `[B, H, W, 3]` to the teacher's range -1..1, `[B, 3, H, W]` in channels-last memory."""
    return torch.from_numpy(views).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def enlarged(images: Tensor, size: int) -> Tensor:
    """Bicubic, within the range of pixels."""
    return F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False).clamp_(-1, 1)


@torch.inference_mode()
def seen(teacher: Teacher, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Early maps, trunk maps, pooled features `[B, 1280]` of unit length, dense maps `[B, 8, 8, 1280]`."""
    with torch.autocast("cpu", torch.bfloat16):
        early, late, small = teacher(images)
        _, _, large = teacher(enlarged(images, LARGE).flip(3).contiguous(memory_format=torch.channels_last))
    small, large = small.float(), large.float().flip(3)
    pooled = sum(F.normalize(maps.mean((2, 3)), dim=1) for maps in (small, large))
    dense = [maps / maps.mean((2, 3)).norm(dim=1)[:, None, None, None] for maps in (small, large)]
    both = dense[0] + F.adaptive_avg_pool2d(dense[1], GRID)
    return early, late, F.normalize(pooled, dim=1), both.permute(0, 2, 3, 1)


def dense_basis(teacher: Teacher, views: numpy.ndarray) -> Basis:
    """Principal components of the dense maps of the first views."""
    rows = [seen(teacher, normalised(views[i : i + 32]))[3].flatten(0, 2) for i in range(0, FITTED_ON, 32)]
    return Basis.fit(torch.cat(rows), DENSE_DIMS)


def write_targets(
    teacher: Teacher, views_file: Path, folder: Path, block: int, *, limit: int | None = None, batch: int = 32
) -> None:
    """Write `early`, `late`, `pooled`, `dense` of the first `limit` views of a block as float16 arrays."""
    views = numpy.load(views_file, mmap_mode="r")[:limit]
    basis_file = folder / "dense_basis.pt"
    if not basis_file.exists():
        torch.save(vars(dense_basis(teacher, views)), basis_file)
    basis = Basis(**torch.load(basis_file))
    shapes = {
        "early": (96, GRID, GRID),
        "late": (320, GRID, GRID),
        "pooled": (1280,),
        "dense": (GRID, GRID, DENSE_DIMS),
    }
    files = {
        name: numpy.lib.format.open_memmap(
            folder / f"{name}_{block}.npy", mode="w+", dtype=numpy.float16, shape=(len(views), *shape)
        )
        for name, shape in shapes.items()
    }
    for start in range(0, len(views), batch):
        images = normalised(views[start : start + batch]).contiguous(memory_format=torch.channels_last)
        early, late, pooled, dense = seen(teacher, images)
        parts = {"early": early, "late": late, "pooled": pooled, "dense": basis.project(dense)}
        for name, part in parts.items():
            files[name][start : start + batch] = part.to(torch.float16).numpy()
        if start % (batch * 100) == 0:
            print(f"targets {block}: {start} of {len(views)}", flush=True)
    for file in files.values():
        file.flush()
