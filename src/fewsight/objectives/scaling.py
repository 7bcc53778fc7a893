"""What clustering needs at a size of the data: prototypes, temperatures, momentum, small views, width of the head.

The published values belong to 1.28 million photos in batches of 1024. Fewer photos want fewer prototypes, sharper
targets and a faster teacher. The table is ours, after the trials of lightly-train's automatic settings for DINO
(prototypes, temperature and momentum by the number of images; warm-ups in steps) and Ruan et al. (ICLR 2023, appendix
C.2: narrower heads are better for few labels); the evidence on momentum disagrees (0.99 to 0.9995 on CIFAR).

| photos | prototypes | teacher temperature | small views | hidden | momentum | epochs | steps at least |
|---|---|---|---|---|---|---|---|
| < 2,000 | 256 | 0.02 | 4 | 512 | 0.99 | 800 | 10,000 |
| < 20,000 | 1,024 | 0.02 | 4 | 1,024 | 0.99 | 400 | 20,000 |
| < 100,000 | 4,096 | 0.03 to 0.04 | 6 | 1,024 | 0.99 below 50,000, else 0.996 | 300 | 60,000 |
| < 500,000 | 8,192 | 0.04 to 0.05 | 8 | 1,024 | 0.996 | 200 | 60,000 |
| more | 65,536 | 0.04 to 0.07 | 8 | 2,048 | 0.996 | 100 | 125,000 |

Prototypes are then halved until they suit the batch: a converged Sinkhorn assignment of R rows has `p <= R / K`, so K
may not exceed the rows of both large views; without Sinkhorn K may be four times as many.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from fewsight.errors import InvalidInput

__all__ = ["DataScale", "data_scale", "flat_targets", "scaled_values"]

GLOBAL_VIEWS = 2


@dataclass(frozen=True)
class DataScale:
    """Settings by the size of the data; see the table of this module.

    Attributes:
        prototypes: K.
        first_teacher_temperature, teacher_temperature: from the start to the end of the warm-up.
        local_views: small views.
        hidden: width of the head.
        momentum: of the teacher at the start.
        epochs: passes over the data, unless `least_steps` are more.
        least_steps: of the optimiser.
        from_scratch: whether random weights are worth starting from.
    """

    prototypes: int
    first_teacher_temperature: float
    teacher_temperature: float
    local_views: int
    hidden: int
    momentum: float
    epochs: int
    least_steps: int
    from_scratch: bool = True


# photos below -> the row
_ROWS: tuple[tuple[float, DataScale], ...] = (
    (2_000, DataScale(256, 0.02, 0.02, 4, 512, 0.99, 800, 10_000, from_scratch=False)),
    (20_000, DataScale(1024, 0.02, 0.02, 4, 1024, 0.99, 400, 20_000)),
    (50_000, DataScale(4096, 0.03, 0.04, 6, 1024, 0.99, 300, 60_000)),
    (100_000, DataScale(4096, 0.03, 0.04, 6, 1024, 0.996, 300, 60_000)),
    (500_000, DataScale(8192, 0.04, 0.05, 8, 1024, 0.996, 200, 60_000)),
    (float("inf"), DataScale(65536, 0.04, 0.07, 8, 2048, 0.996, 100, 125_000)),
)


def data_scale(images: int, *, batch: int, collapse: str = "sinkhorn") -> DataScale:
    """The row of the table for `images` photos, with prototypes that suit the batch.

    Args:
        batch: photos of one step on all ranks.
        collapse: of `fewsight.objectives.collapse.AVOIDANCES`.

    Raises:
        InvalidInput: no photos, an empty batch.

    >>> data_scale(500, batch=64).prototypes, data_scale(10_000, batch=64, collapse="centring").prototypes
    (128, 512)
    """
    if images < 1 or batch < 1:
        raise InvalidInput(f"images is {images} and batch {batch}; expected 1 or more of each.")
    row = next(row for bound, row in _ROWS if images < bound)
    most = GLOBAL_VIEWS * batch * (1 if "sinkhorn" in collapse else 4)
    prototypes = row.prototypes
    while prototypes > most and prototypes > 2:
        prototypes //= 2
    return DataScale(**{**vars(row), "prototypes": prototypes})


def scaled_values(
    kind: type, images: int, *, batch: int, steps: int, collapse: str | None = None
) -> dict[str, Any]:
    """Values for those fields of a settings dataclass that the size of the data decides.

    Args:
        kind: `settings_type` of an objective; one without such fields gets nothing.
        images, batch: as in `data_scale`.
        steps: of the run, for the warm-ups: 37,500 steps or 30 % of the run for the temperature, 1,250 steps or one
            epoch for the frozen prototypes, the smaller of each (lightly-train).
        collapse: None = the default of `kind`.
    """
    defaults = {field.name: field.default for field in fields(kind)}
    method = collapse or defaults.get("collapse", "none")
    scale = data_scale(images, batch=batch, collapse=str(method))
    one_epoch = max(1, images // batch)
    values = {name: value for name, value in vars(scale).items() if name in defaults}
    values |= {
        "focal_views": scale.local_views,
        "patch_prototypes": scale.prototypes,
        "temperature_warmup": min(37_500 / max(1, steps), 0.3),
        "frozen_prototypes": min(1.0, min(1_250, one_epoch) / max(1, steps)),
    }
    if not defaults.get("patch_prototypes"):
        values.pop("patch_prototypes")  # shared with the class tokens
    # MoCo-v3 and MSN have published momenta of their own; it is the clustering teacher that the table is about.
    if "teacher_temperature" not in defaults:
        values.pop("momentum", None)
    if "prototypes" not in defaults:
        values.pop("hidden", None)
    return {name: value for name, value in values.items() if name in defaults}


def flat_targets(prototypes: int, rows: int, collapse: str) -> str | None:
    """A sentence where Sinkhorn has more prototypes than rows to share them, else None.

    >>> flat_targets(1024, 4096, "sinkhorn") is None
    True
    """
    if "sinkhorn" not in collapse or prototypes <= rows:
        return None
    return (
        f"{prototypes} prototypes share {rows} assigned views of a batch: no assignment can be surer than "
        f"{rows / prototypes:.2f}. Take at most {rows} prototypes, a larger batch, or centring."
    )
