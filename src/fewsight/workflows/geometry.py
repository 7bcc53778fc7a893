"""`fewsight geometry`: the shape of a feature space on labelled photos, before and after, with lines to read it by.

Every measure of `evaluation.geometry` that needs no second view, on the features as they are and at unit length, of
all photos, of each split, and, where the model says which classes it was trained on, of these and of the others; of
the backbone and of the projector that it was trained with. Beside them stand what classes collapsed to points would
give, and what white features of as many rows would give.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.data.collection import Collection
from fewsight.data.fingerprint import fingerprint
from fewsight.errors import InvalidInput
from fewsight.evaluation import geometry as measures
from fewsight.evaluation import geometry_lines
from fewsight.evaluation.feature_sums import unit_rows
from fewsight.files import run_folder, write_json
from fewsight.progress import quieted, say
from fewsight.workflows.encoded_data import (
    EncodedData,
    encode_collection,
    encode_data,
    vector_encoder,
    vectors_of,
)
from fewsight.workflows.geometry_result import HELD_OUT, TRAINED_ON, Geometry, PartGeometry, Space, View
from fewsight.workflows.measured_models import MeasuredModel, measured_models
from fewsight.workflows.run_record import RunRecord, record_run

__all__ = ["Geometry", "PartGeometry", "Space", "geometry", "measure_space", "reference_lines"]

PAIRED = 10_000  # photos up to which all pairs are taken for uniformity; of more, so many evenly spread
SHRINKAGE = 0.2  # of IsoScore*: as in training in the paper


def geometry(
    model: str | Path,
    data: str | Path | None = None,
    *,
    backbone: str = "auto",
    against: str | None = None,
    out: str | Path | None = None,
    split: str | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    class_level: str = "top",
    skip_empty: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> Geometry:
    """Measure the feature space that a backbone makes of labelled photos: `geometry(model, data)`, or `geometry(data)`.

    Args:
        model: what `load_backbone` takes; a folder of `adapt` also has the projector and the classes trained on. Where
            `data` is left out, the photos.
        data: class folders or a CSV, one label a photo.
        backbone: the one to measure, where `model` is left out.
        against: another one, the state before: measured on the same photos.
        out: folder for `geometry.json` and `report.html`.
        split: only photos of this split; otherwise each split is also measured by itself.

    Raises:
        InvalidInput: there are fewer than two photos, a photo has several labels or none, or the model is given twice.
    """
    if data is not None and backbone != "auto":
        raise InvalidInput(
            f"the model is given twice, as {model} and as --backbone {backbone}: leave one out."
        )
    name, photos = (backbone, Path(model)) if data is None else (str(model), Path(data))
    opened = nullcontext() if out is None else run_folder(out, force=force)
    with quieted(quiet), opened as folder:
        settings: dict[str, Any] = {"precision": precision, "device": device, "batch_size": batch_size}
        asked, rival = measured_models(name, against, image_size)
        encoder = vector_encoder(asked.backbone, **settings)
        encoded = encode_data(
            photos, encoder, split=split, class_level=class_level, skip_empty=skip_empty, workers=workers
        )
        for remark in encoded.remarks:
            say(remark)
        collection = encoded.collection
        _check(collection)
        parts = _parts(collection, asked)
        after, projected = _measured_model(asked, encoded, parts)
        before = None
        if rival is not None:
            other = encode_collection(collection, vector_encoder(rival.backbone, **settings), workers=workers)
            if len(other.collection) != len(collection):
                raise InvalidInput("the two backbones do not read the same photos; compare them one by one.")
            before, began = _measured_model(rival, other, parts)
        view = None
        if projected is not None:
            view = View("projector", projected, None if before is None else began)
        remarks = encoded.remarks
        if len(collection) > PAIRED:
            remarks = (
                *remarks,
                f"Uniformity is of {PAIRED} photos, evenly spread over all {len(collection)}.",
            )
        found = Geometry(photos.name or str(photos), collection, after, before, remarks, folder, view)
        if folder is not None:
            from fewsight.workflows.geometry_report import report_geometry

            chosen: dict[str, Any] = {
                "data": str(photos),
                "backbone": asked.backbone.name,
                "split": split,
                "precision": precision,
            }
            chosen["against"] = None if before is None else before.name
            chosen["image_size"] = image_size
            record_run(folder, RunRecord("geometry", chosen, {"data": fingerprint(collection)}))
            write_json(folder / "geometry.json", found.summary())
            report_geometry(found, folder / "report.html")
        return found


def _check(collection: Collection) -> None:
    if len(collection) < 2:
        raise InvalidInput(f"there are {len(collection)} photos; a geometry needs at least two.")
    unlabelled = int((collection.targets() < 0).sum())
    if unlabelled:
        raise InvalidInput(
            f"{unlabelled} of {len(collection)} photos have no label; put each into a folder named after its class, or "
            "name it in a CSV."
        )


Parts = dict[str, NDArray[numpy.int64]]


def _parts(collection: Collection, model: MeasuredModel) -> Parts:
    """Rows of all photos, of each split, of the classes that the model was trained on and of the others."""
    parts = {"all": numpy.arange(len(collection))}
    if len(collection.split_names) > 1:
        parts |= {split: numpy.flatnonzero(collection.in_split(split)) for split in collection.split_names}
    known = numpy.array([name in model.trained_on for name in collection.classes])
    if known.any() and not known.all():
        trained = known[collection.targets()]
        parts |= {TRAINED_ON: numpy.flatnonzero(trained), HELD_OUT: numpy.flatnonzero(~trained)}
    return {
        name: rows
        for name, rows in parts.items()
        if len(rows) > 1 and (name == "all" or len(rows) < len(collection))
    }


def _measured_model(model: MeasuredModel, encoded: EncodedData, parts: Parts) -> tuple[Space, Space | None]:
    """The backbone's space, and the one behind the projector."""
    features = vectors_of(encoded.features).float()
    space = _space(model.backbone.name, features, encoded.collection, parts)
    if model.projector is None:
        return space, None
    projected = model.projector(features)
    return space, _space(f"{model.backbone.name}, projected", projected, encoded.collection, parts)


def _space(name: str, features: Tensor, collection: Collection, parts: Parts) -> Space:
    labels = torch.from_numpy(collection.targets())
    return Space(
        name,
        features,
        {part: measure_space(features[rows], labels[rows]) for part, rows in parts.items()},
    )


def measure_space(features: Tensor, labels: Tensor) -> PartGeometry:
    """Every measure of features `[N, D]` with class ids `[N]`, with the lines to read them by.

    Raises:
        InvalidInput: shapes disagree, or a feature is not finite.
    """
    N, D = features.shape
    K = len(labels.unique())
    return PartGeometry(
        N, K, _measured(features, labels), _measured(unit_rows(features), labels), reference_lines(N, D, K)
    )


def _measured(features: Tensor, labels: Tensor) -> dict[str, float]:
    """Each measure by its name.

    The power law of the spectrum is fitted from the 5th eigenvalue (of few: the first) to half of them, the 100th at
    most: head and tail follow no such law.
    """
    N, D = features.shape
    most = min(N - 1, D)
    last = min(100, most // 2)
    first = 5 if last > 10 else 1
    spread = features if N <= PAIRED else features[torch.arange(PAIRED) * N // PAIRED]
    values: dict[str, Tensor | float] = {
        "average_cosine": measures.average_cosine(features),
        "intra_class_cosine": measures.intra_class_cosine(features, labels),
        "inter_class_cosine": measures.inter_class_cosine(features, labels),
        "participation_ratio": measures.participation_ratio(features),
        "participation_ratio_debiased": geometry_lines.debiased_participation_ratio(features),
        "isoscore": measures.isoscore(features),
        "isoscore_star": measures.isoscore_star(features, SHRINKAGE),
        "effective_rank": measures.effective_rank(features),
        "rankme": measures.rankme(features),
        "spectrum_exponent": measures.spectrum_exponent(features, first, last) if last > first else math.nan,
        "partition_isotropy_log": measures.partition_isotropy(features, log=True),
        "uniformity": measures.uniformity(spread),
        "alignment": measures.alignment(features, labels),
        "class_separation": measures.class_separation(features, labels),
        "class_separation_debiased": geometry_lines.debiased_class_separation(features, labels),
        "nc1": measures.nc1(features, labels),
        "feature_std": measures.feature_std(features),
    }
    return {name: float(value) for name, value in values.items()}


def reference_lines(photos: int, width: int, classes: int) -> dict[str, dict[str, float]]:
    """What collapsed classes of equal size, and white Gaussian features, would give for so many photos.

    >>> reference_lines(50, 64, 5)["white"]["isoscore"]
    0.42105263157894735
    """
    possible = width > 1 and 2 <= classes <= width + 1
    per_class = max(1, round(photos / max(classes, 1)))
    white = {"average_cosine": 0.0}
    white["average_cosine_spread"] = geometry_lines.finite_sample_spread_of_cosine(photos, width)
    if photos > 2 and width > 1:
        white["isoscore"] = geometry_lines.finite_sample_isoscore(photos, width)
        white["participation_ratio"] = 1 + (width - 1) * white["isoscore"]
    return {
        "collapsed": geometry_lines.collapsed_simplex(classes, per_class, width) if possible else {},
        "white": white,
    }
