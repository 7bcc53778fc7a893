"""Published figures of few-shot classification and segmentation, for the reports that stand beside ours.

Means over four folds, one run each, no intervals; exact ratio and mIoU in %. Sources: the READMEs of
`dahyun-kang/cst` and `dahyun-kang/ifsl` (FS-CS), of `visinf/emat` (EMAT, and CST retrained), and of `dahyun-kang/ifsl`
(ASNet, FS-S). Published episodes; void pixels count as background in FS-CS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["PUBLISHED", "PublishedRow", "published_rows"]


class PublishedRow(NamedTuple):
    """One published figure; `exact_ratio` is None where the task has no presence."""

    benchmark: str
    task: str
    way: int
    shot: int
    method: str
    supervision: str
    backbone: str
    exact_ratio: float | None
    miou: float

    def sentence(self) -> str:
        """In words."""
        ratio = "" if self.exact_ratio is None else f"exact ratio {self.exact_ratio:.1f} %, "
        return (
            f"Published, {self.way}-way {self.shot}-shot {self.task}: {self.method} ({self.supervision} labels, "
            f"{self.backbone}): {ratio}mIoU {self.miou:.1f} %."
        )


_FSCS = (
    # method, supervision, backbone, Pascal 1-way, Pascal 2-way, COCO 1-way, COCO 2-way (all 1-shot)
    ("PANet", "pixel", "ResNet-50", (69.0, 36.2), (50.9, 37.2), (66.7, 25.2), (48.5, 23.6)),
    ("PFENet", "pixel", "ResNet-50", (74.6, 43.0), (41.0, 35.3), (71.4, 31.9), (36.5, 22.6)),
    ("HSNet", "pixel", "ResNet-50", (83.7, 49.7), (67.3, 43.5), (77.0, 34.3), (62.5, 29.5)),
    ("ASNet", "pixel", "ResNet-50", (84.9, 52.3), (68.3, 47.8), (78.6, 35.8), (63.1, 31.6)),
    ("CST", "pixel", "DINO ViT-S/8", (85.7, 55.5), (70.4, 53.7), (80.8, 38.3), (64.0, 36.2)),
    ("CST", "image", "DINO ViT-S/8", (79.9, 33.2), (64.6, 31.9), (78.2, 19.6), (62.4, 18.3)),
    ("CST, retrained", "pixel", "DINOv2 ViT-S/14", None, (80.58, 63.28), None, (78.70, 51.47)),
    ("EMAT", "pixel", "DINOv2 ViT-S/14", None, (82.70, 63.38), None, (80.07, 52.81)),
)
_PLACES = (("pascal-5i", 1), ("pascal-5i", 2), ("coco-20i", 1), ("coco-20i", 2))

PUBLISHED: tuple[PublishedRow, ...] = tuple(
    PublishedRow(benchmark, "FS-CS", way, 1, method, supervision, backbone, *figures)
    for method, supervision, backbone, *columns in _FSCS
    for (benchmark, way), figures in zip(_PLACES, columns, strict=True)
    if figures is not None
) + tuple(
    PublishedRow(benchmark, "FS-S", 1, shot, "ASNet", "pixel", "ResNet-50", None, miou)
    for benchmark, shot, miou in (
        ("pascal-5i", 1, 66.1),
        ("pascal-5i", 5, 70.8),
        ("coco-20i", 1, 42.2),
        ("coco-20i", 5, 47.9),
    )
)


def published_rows(benchmark: str, task: str, way: int, shot: int) -> Iterator[PublishedRow]:
    """The rows of one benchmark, task (`fs-cs`, `fs-s`), way and shot."""
    for row in PUBLISHED:
        if (row.benchmark, row.task.lower(), row.way, row.shot) == (benchmark, task, way, shot):
            yield row
