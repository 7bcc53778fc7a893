"""`fewsight geometry`: the shape of a feature space on labelled photos, before and after, with lines to read it by.

Every measure of `evaluation.geometry` that needs no second view, on the features as they are and at unit length, of
all photos and of each split. Beside them stand what classes collapsed to points would give, and what white features of
as many rows would give.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from fewsight.backbones.loading import load_backbone
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
from fewsight.workflows.run_record import RunRecord, record_run

__all__ = ["Geometry", "PartGeometry", "Space", "geometry", "measure_space", "reference_lines"]

PAIRED = 10_000  # photos up to which all pairs are taken for uniformity; of more, so many evenly spread
SAME = 0.001  # changes below are not worth words
SHRINKAGE = 0.2  # of IsoScore*: as in training in the paper


@dataclass(frozen=True)
class PartGeometry:
    """The measures of one part of the photos.

    Attributes:
        photos, classes: how many.
        raw, unit: measure -> value, of the features as they are and at unit length; NaN where undefined.
        lines: name of a reference -> measure -> value.
    """

    photos: int
    classes: int
    raw: dict[str, float]
    unit: dict[str, float]
    lines: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Space:
    """One backbone's features and what was measured of them.

    Attributes:
        name: of the backbone.
        features: `[N, D]`, one row for each photo.
        parts: `all`, and each split of the data if there are several.
    """

    name: str
    features: Tensor
    parts: dict[str, PartGeometry]


@dataclass(frozen=True)
class Geometry:
    """What `geometry` found.

    Attributes:
        dataset: name of the data.
        collection: the photos measured.
        after: the backbone asked for.
        before: the one given as `against`, on the same photos; None without.
        remarks: what was left out, in words.
        folder: with `geometry.json`, `report.html` and `run.yaml`; None if nothing was written.
    """

    dataset: str
    collection: Collection
    after: Space
    before: Space | None = None
    remarks: tuple[str, ...] = ()
    folder: Path | None = field(default=None)

    @property
    def spaces(self) -> tuple[Space, ...]:
        """Before, where there is one, then after."""
        return (self.after,) if self.before is None else (self.before, self.after)

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json` and `geometry.json`; null where a measure is undefined."""
        return {
            "dataset": self.dataset,
            "photos": len(self.collection),
            "classes": len(self.collection.classes),
            "backbones": [
                {
                    "name": space.name,
                    "role": "after" if space is self.after else "before",
                    "width": space.features.shape[1],
                    "parts": {name: _plain(part) for name, part in space.parts.items()},
                }
                for space in self.spaces
            ],
            "meaning": list(self.meaning()),
            "remarks": list(self.remarks),
            "folder": None if self.folder is None else str(self.folder),
        }

    def meaning(self) -> Iterator[str]:
        """One or two sentences: what the figures say, or what changed."""
        whole = self.after.parts["all"]
        if self.before is None:
            yield from _state(self.after)
        else:
            yield from _change(self.before, self.after)
        if whole.photos <= self.after.features.shape[1]:
            yield (
                f"There are no more photos ({whole.photos}) than dimensions ({self.after.features.shape[1]}): IsoScore "
                "and ranks say little without the line of white features beside them."
            )

    def sentences(self) -> Iterator[str]:
        """The result in words."""
        yield from self.remarks
        for part in self.after.parts:
            for space in self.spaces:
                found = space.parts[part]
                told = ", ".join(f"{words} {found.unit[key]:.3f}" for key, words in _TOLD)
                yield f"{space.name}, {part} ({found.photos} photos of {found.classes} classes): {told}."
        yield from self.meaning()
        if self.folder is not None:
            yield f"All measures: {self.folder / 'geometry.json'}; pictures: {self.folder / 'report.html'}"


_TOLD = (
    ("average_cosine", "average cosine"),
    ("isoscore", "IsoScore"),
    ("participation_ratio", "participation ratio"),
    ("class_separation", "class separation"),
)


def _plain(part: PartGeometry) -> dict[str, Any]:
    def known(values: dict[str, float]) -> dict[str, float | None]:
        return {key: value if math.isfinite(value) else None for key, value in values.items()}

    return {
        "photos": part.photos,
        "classes": part.classes,
        "raw": known(part.raw),
        "unit": known(part.unit),
        "lines": {name: known(values) for name, values in part.lines.items()},
    }


def _state(space: Space) -> Iterator[str]:
    part = space.parts["all"]
    cosine, ratio = part.unit["average_cosine"], part.unit["participation_ratio"]
    white = part.lines["white"].get("isoscore", math.nan)
    shape = "a narrow cone" if cosine > 0.5 else "a wide cone" if cosine > 0.1 else "spread around the origin"
    yield (
        f"Features of {space.name} are {shape} (average cosine {cosine:.2f}, 0 when spread); about {ratio:.0f} of "
        f"{space.features.shape[1]} directions share their variance (IsoScore {part.unit['isoscore']:.3f}, "
        f"white features of as many photos {white:.3f})."
    )
    if part.classes > 1:
        yield (
            f"Class separation is {part.unit['class_separation']:.2f}, "
            f"{part.unit['class_separation_debiased']:.2f} without a photo's pair with itself (0: classes mixed, 1: "
            "each class a point; high values often go with worse transfer to other classes)."
        )


def _change(before: Space, after: Space) -> Iterator[str]:
    old, new = before.parts["all"].unit, after.parts["all"].unit
    cosine = abs(new["average_cosine"]) - abs(old["average_cosine"])
    isoscore = new["isoscore"] - old["isoscore"]
    told = (
        f"From {before.name} to {after.name} the average cosine went from {old['average_cosine']:.2f} to "
        f"{new['average_cosine']:.2f}, IsoScore from {old['isoscore']:.3f} to {new['isoscore']:.3f}"
    )
    if math.isnan(cosine) or math.isnan(isoscore):
        yield f"{told}."
    else:
        yield f"{told}: {_verdict(cosine, isoscore)}."
    separation = new["class_separation"] - old["class_separation"]
    if not math.isnan(separation):
        change = "as far apart as before" if abs(separation) < SAME else "further apart"
        yield (
            f"Classes lie {change if separation > -SAME else 'closer together'}: class separation "
            f"{old['class_separation']:.2f} before, {new['class_separation']:.2f} after (1: each class a point)."
        )


def _verdict(cosine: float, isoscore: float) -> str:
    """What changes of the average cosine's size and of IsoScore mean, in words."""
    changed = [abs(change) >= SAME for change in (cosine, isoscore)]
    if not any(changed):
        return "as isotropic as before"
    if not changed[1]:
        change = "less" if cosine > 0 else "more"
        return f"{change} isotropic by the cosine alone (the mean moved, the spectrum did not)"
    if not changed[0]:
        return f"{'more' if isoscore > 0 else 'less'} isotropic by IsoScore alone"
    if cosine * isoscore < 0:
        return f"{'more' if isoscore > 0 else 'less'} isotropic by both"
    return (
        "they disagree, for the cosine looks at directions from the origin and IsoScore at the spectrum "
        "around the mean"
    )


def geometry(
    data: str | Path,
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
    """Measure the feature space that a backbone makes of labelled photos.

    Args:
        data: class folders or a CSV, one label a photo.
        backbone: the one to measure.
        against: another backbone, the state before: measured on the same photos.
        out: folder for `geometry.json` and `report.html`.
        split: only photos of this split; otherwise each split is also measured by itself.

    Raises:
        InvalidInput: there are fewer than two photos, or a photo has several labels or none.
    """
    data = Path(data)
    opened = nullcontext() if out is None else run_folder(out, force=force)
    with quieted(quiet), opened as folder:
        settings: dict[str, Any] = {"precision": precision, "device": device, "batch_size": batch_size}
        loaded = [load_backbone(name, image_size=image_size) for name in (backbone, against) if name]
        encoder = vector_encoder(loaded[0], **settings)
        encoded = encode_data(
            data, encoder, split=split, class_level=class_level, skip_empty=skip_empty, workers=workers
        )
        for remark in encoded.remarks:
            say(remark)
        collection = encoded.collection
        _check(collection)
        after = _space(loaded[0].name, encoded)
        before = None
        if len(loaded) > 1:
            other = encode_collection(collection, vector_encoder(loaded[1], **settings), workers=workers)
            if len(other.collection) != len(collection):
                raise InvalidInput("the two backbones do not read the same photos; compare them one by one.")
            before = _space(loaded[1].name, other)
        remarks = encoded.remarks
        if len(collection) > PAIRED:
            remarks = (
                *remarks,
                f"Uniformity is of {PAIRED} photos, evenly spread over all {len(collection)}.",
            )
        found = Geometry(data.name or str(data), collection, after, before, remarks, folder)
        if folder is not None:
            from fewsight.workflows.geometry_report import report_geometry

            chosen: dict[str, Any] = {
                "data": str(data),
                "backbone": loaded[0].name,
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


def _space(name: str, encoded: EncodedData) -> Space:
    features, collection = vectors_of(encoded.features).float(), encoded.collection
    labels = torch.from_numpy(collection.targets())
    rows = {"all": numpy.arange(len(collection))}
    if len(collection.split_names) > 1:
        rows |= {split: numpy.flatnonzero(collection.in_split(split)) for split in collection.split_names}
    parts = {
        part: measure_space(features[chosen], labels[chosen])
        for part, chosen in rows.items()
        if len(chosen) > 1 and (part == "all" or len(chosen) < len(labels))
    }
    return Space(name, features, parts)


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
