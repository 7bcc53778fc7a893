"""From a decoded picture to the input of a backbone, as plain data that is saved with a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from fewsight.errors import InvalidInput

__all__ = ["Transform"]


@dataclass(frozen=True)
class Transform:
    """Resize, crop and normalise.

    Attributes:
        size: height and width of the input in pixels.
        mode: `crop` keeps the aspect ratio: the shorter side becomes `size / crop_fraction` and the centre is
            cut out; `squash` resizes to `size` whatever the aspect.
        crop_fraction: share of the resized shorter side that the crop keeps, in (0, 1].
        interpolation: `bilinear` or `bicubic`, with antialiasing.
        mean, std: of the three channels, for pixels scaled to [0, 1].
    """

    size: tuple[int, int] = (224, 224)
    mode: Literal["crop", "squash"] = "crop"
    crop_fraction: float = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise InvalidInput(f"size is {self.size}; expected at least 1 x 1 pixels.")
        if not 0 < self.crop_fraction <= 1:
            raise InvalidInput(f"crop_fraction is {self.crop_fraction}; expected a value in (0, 1].")
        if min(self.std) <= 0:
            raise InvalidInput(f"std is {self.std}; expected positive values.")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Transform:
        """The inverse of `as_dict`."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)
