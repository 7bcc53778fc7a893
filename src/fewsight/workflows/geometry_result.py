"""What `fewsight geometry` found, as values and in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fewsight.data.collection import Collection

__all__ = ["HELD_OUT", "TRAINED_ON", "Geometry", "PartGeometry", "Space", "View"]

SAME = 0.001  # changes below are not worth words
TRAINED_ON, HELD_OUT = (
    "classes trained on",
    "held-out classes",
)  # parts, where a model says what it was trained on


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
class View:
    """One place in the network: the backbone's vector of a photo, or what the projector makes of it.

    Attributes:
        name: `backbone` or `projector`.
        after: the model asked for.
        before: the one given as `against`, on the same photos; None without.
    """

    name: str
    after: Space
    before: Space | None = None

    @property
    def spaces(self) -> tuple[Space, ...]:
        """Before, where there is one, then after."""
        return (self.after,) if self.before is None else (self.before, self.after)


@dataclass(frozen=True)
class Geometry:
    """What `geometry` found.

    Attributes:
        dataset: name of the data.
        collection: the photos measured.
        after: the backbone asked for.
        before: the one given as `against`, on the same photos; None without.
        projected: the same two behind the projector that the backbone was trained with; None where there is none.
        remarks: what was left out, in words.
        folder: with `geometry.json`, `report.html` and `run.yaml`; None if nothing was written.
    """

    dataset: str
    collection: Collection
    after: Space
    before: Space | None = None
    remarks: tuple[str, ...] = ()
    folder: Path | None = field(default=None)
    projected: View | None = None

    @property
    def views(self) -> tuple[View, ...]:
        """The backbone, then the projector where there is one."""
        backbone = View("backbone", self.after, self.before)
        return (backbone,) if self.projected is None else (backbone, self.projected)

    @property
    def spaces(self) -> tuple[Space, ...]:
        """Before, where there is one, then after; of the backbone."""
        return self.views[0].spaces

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json` and `geometry.json`; null where a measure is undefined."""
        return {
            "dataset": self.dataset,
            "photos": len(self.collection),
            "classes": len(self.collection.classes),
            **{
                f"{view.name}s": [
                    {
                        "name": space.name,
                        "role": "after" if space is view.after else "before",
                        "width": space.features.shape[1],
                        "parts": {name: _plain(part) for name, part in space.parts.items()},
                    }
                    for space in view.spaces
                ]
                for view in self.views
            },
            "meaning": list(self.meaning()),
            "remarks": list(self.remarks),
            "folder": None if self.folder is None else str(self.folder),
        }

    def meaning(self) -> Iterator[str]:
        """A few sentences: what the figures say, or what changed."""
        whole = self.after.parts["all"]
        for view in self.views:
            if view.before is None:
                yield from _state(view.after)
            else:
                yield from _change(view.before, view.after)
        if self.before is not None and HELD_OUT in self.after.parts:
            yield from _transfer(self.before, self.after)
        if whole.photos <= self.after.features.shape[1]:
            yield (
                f"There are no more photos ({whole.photos}) than dimensions ({self.after.features.shape[1]}): IsoScore "
                "and ranks say little without the line of white features beside them."
            )

    def sentences(self) -> Iterator[str]:
        """The result in words."""
        yield from self.remarks
        for part, space in (
            (part, space) for part in self.after.parts for view in self.views for space in view.spaces
        ):
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


def _transfer(before: Space, after: Space) -> Iterator[str]:
    """What became of the classes trained on, and of those that were not."""
    told = []
    for part in (TRAINED_ON, HELD_OUT):
        old, new = (space.parts[part].unit["class_separation_debiased"] for space in (before, after))
        if math.isnan(old) or math.isnan(new):
            return
        told.append(f"{old:.2f} to {new:.2f} for {part}")
    yield f"Class separation without self pairs went from {told[0]}, and from {told[1]}."


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
