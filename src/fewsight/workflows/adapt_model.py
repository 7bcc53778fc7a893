"""What `adapt` leaves: the kept backbone with its head in `model/`, the other one in `adapted/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from torch import Tensor

import fewsight
from fewsight.backbones.architectures import remember
from fewsight.backbones.backbone import Backbone
from fewsight.backbones.description import describe
from fewsight.backbones.features import Features
from fewsight.backbones.registry import BUNDLED
from fewsight.classifier import FewShotClassifier
from fewsight.model import SavedModel, write_model
from fewsight.saved_classifier import pack
from fewsight.seeding import numpy_generator
from fewsight.workflows.projectors import Projectors, with_projectors

__all__ = ["MOST_SUPPORT", "name_adapted", "spread_rows", "write_backbone", "write_classifier"]

MOST_SUPPORT = 2000  # photos in the model's support: more slow its calibration down and improve it little


def name_adapted(backbone: Backbone, data: str) -> Backbone:
    """Say in its name that the weights are no longer the published ones; what it was made of stays known."""
    if backbone.name == BUNDLED:
        remember(backbone, kind="bundled")
    backbone.name = f"{backbone.name}+{data}"
    note = "; ".join(part for part in (backbone.licence.note, f"adapted on {data}") if part)
    backbone.licence = replace(backbone.licence, note=note)
    return backbone


def spread_rows(
    rows: NDArray[numpy.int64], labels: NDArray[numpy.int64], most: int, seed: int
) -> NDArray[numpy.int64]:
    """Places in `rows` of at most `most` photos, ascending, as evenly over the classes as they come."""
    if len(rows) <= most:
        return numpy.arange(len(rows))
    order = numpy_generator(seed, "some photos of each class").permutation(len(rows))
    turns = numpy.zeros(len(rows), dtype=numpy.int64)
    for k in numpy.unique(labels).tolist():
        own = order[labels[order] == k]
        turns[own] = numpy.arange(len(own))
    return numpy.sort(order[numpy.argsort(turns[order], kind="stable")][:most])


def write_classifier(
    folder: Path,
    backbone: Backbone,
    head: str,
    vectors: Tensor,
    labels: list[str],
    files: list[str],
    groups: list[str] | None,
    provenance: Mapping[str, Any],
    *,
    seed: int,
    projectors: Projectors | None = None,
) -> FewShotClassifier:
    """A classifier on the frozen backbone as a model folder, which also serves as `--backbone`.

    Args:
        head: `logistic` or `prototypes`.
        vectors: features of the training photos, `[N, D]`.
        labels, files, groups: of the same photos.
        projectors: that the backbone was trained with.
    """
    classifier = FewShotClassifier(backbone, head, image_size=backbone.image_size, seed=seed)
    classifier.fit(Features(cls=vectors), labels, groups=groups, files=files)
    saved = pack(classifier)
    description = {
        **saved.description,
        "provenance": {**saved.description["provenance"], "adapted": dict(provenance)},
    }
    write_model(folder, with_projectors(replace(saved, description=description), projectors))
    return classifier


def write_backbone(
    folder: Path,
    backbone: Backbone,
    provenance: Mapping[str, Any],
    *,
    classes: list[str],
    head: Mapping[str, Tensor] | None = None,
    projectors: Projectors | None = None,
) -> None:
    """A backbone alone, or with a linear head: weight `[K, D]` and bias `[K]` of its vectors."""
    tensors = {f"backbone.{name}": value.contiguous() for name, value in backbone.state_dict().items()}
    tensors |= {f"head.{name}": value for name, value in (head or {}).items()}
    description = {
        "backbone": describe(backbone),
        "head": None if head is None else {"name": "linear", "classes": classes},
        "licences": {"backbone weights": vars(backbone.licence)},
        "provenance": {"fewsight": fewsight.__version__, "adapted": dict(provenance)},
    }
    write_model(folder, with_projectors(SavedModel("backbone", description, tensors), projectors))
