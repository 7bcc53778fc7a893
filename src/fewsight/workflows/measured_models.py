"""What `fewsight geometry` measures: a backbone, its projector, and the classes that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.loading import load_backbone
from fewsight.model import SavedModel, read_model
from fewsight.workflows.projectors import read_projectors

__all__ = ["MeasuredModel", "measured_models"]


@dataclass(frozen=True)
class MeasuredModel:
    """A backbone and what its model folder says of its training.

    Attributes:
        backbone: to measure.
        projector: that it was trained with, or None.
        trained_on: names of the classes of that training; empty where it is not known.
        came_from: name of the backbone that the training began with; None where it is not known.
    """

    backbone: Backbone
    projector: nn.Module | None = None
    trained_on: frozenset[str] = frozenset()
    came_from: str | None = None


def measured_models(
    name: str, against: str | None, image_size: int | None
) -> tuple[MeasuredModel, MeasuredModel | None]:
    """The model asked for, and the state before.

    A rival that the model came from is read at the model's image size, and with the projector as it was before the
    first step: before and after differ in nothing but the training.
    """
    saved = _saved(name)
    backbone = load_backbone(name, image_size=image_size)
    projectors = None if saved is None else read_projectors(saved)
    told = {} if saved is None else (saved.description.get("provenance") or {}).get("adapted") or {}
    after = MeasuredModel(
        backbone,
        None if projectors is None else projectors[0],
        frozenset(str(label) for label in told.get("classes") or ()),
        told.get("from"),
    )
    if against is None:
        return after, None
    origin = against == after.came_from
    size = backbone.image_size if origin and image_size is None else image_size
    rival = load_backbone(against, image_size=size)
    other = _saved(against)
    own = None if other is None else read_projectors(other)
    if own is not None:
        return after, MeasuredModel(rival, own[0])
    fits = origin and projectors is not None and rival.vector_dim == backbone.vector_dim
    return after, MeasuredModel(rival, projectors[1] if fits and projectors is not None else None)


def _saved(name: str) -> SavedModel | None:
    """The model folder behind a name, if it is one."""
    for place in (Path(name), Path(name) / "model"):
        if (place / "model.json").is_file():
            return read_model(place)
    return None
