"""The page of `fewsight geometry`: all measures beside their lines, the spectrum, the cosines, a map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fewsight.evaluation.feature_sums import unit_rows
from fewsight.report.maps import choose_method, place
from fewsight.report.page import Page, Section, Tile, render, write_page
from fewsight.report.plots import class_colour, curve_path
from fewsight.report.wording import counted
from fewsight.workflows.geometry_result import HELD_OUT, TRAINED_ON, Geometry, Space, View

__all__ = ["cosine_histogram", "report_geometry", "variance_shares"]

BINS = 60
MOST_PAIRED, MOST_ON_MAP = 1500, 1000  # photos in the histogram and on a map, evenly spread
LEAST_SHARE = 1e-5  # of the variance: where the drawing of the spectrum ends
WIDTH, HEIGHT = 480, 200

MEASURES = {
    "average_cosine": ("average cosine", "two photos; 0: spread evenly, 1: a narrow cone"),
    "intra_class_cosine": ("cosine within classes", "two photos of one class"),
    "inter_class_cosine": ("cosine between classes", "two photos of different classes"),
    "participation_ratio": ("participation ratio", "how many directions share the variance"),
    "participation_ratio_debiased": (
        "… without bias",
        "the same, corrected for few photos; noisy if it is small",
    ),
    "isoscore": ("IsoScore", "the same from 0 (one direction) to 1 (all)"),
    "isoscore_star": ("IsoScore*", "of the covariance shrunk to the identity by 0.2; depends on scale"),
    "effective_rank": ("effective rank", "entropy of the singular values around the mean, as a count"),
    "rankme": ("RankMe", "the same around the origin; a common offset hides the rest"),
    "spectrum_exponent": ("α of the spectrum", "near 1: power law of natural features; far above: collapsed"),
    "partition_isotropy_log": (
        "log partition isotropy",
        "0: as much mass in every direction; depends on scale",
    ),
    "uniformity": ("uniformity", "smaller: spread more evenly on the sphere"),
    "alignment": ("alignment", "squared distance within classes; 0: each class a point"),
    "class_separation": ("class separation R²", "0: classes mixed, 1: each class a point"),
    "class_separation_debiased": (
        "… without self pairs",
        "the same; classes of few photos do not look better",
    ),
    "nc1": ("NC1", "spread within classes against that between them; 0: collapsed"),
    "feature_std": ("feature std", "of unit-length features per dimension; 0: all alike"),
}


@dataclass(frozen=True)
class _Row:
    words: str
    meaning: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class _Line:
    name: str
    colour: str
    path: str
    dashed: bool = False


@dataclass(frozen=True)
class _Plot:
    caption: str
    label: str
    lines: tuple[_Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class _Point:
    x: float
    y: float
    index: int
    file: str


@dataclass(frozen=True)
class _Map:
    name: str
    points: tuple[_Point, ...]


def report_geometry(found: Geometry, path: Path) -> None:
    """Write the page of what was found."""
    tables = [_table(view, part) for part in found.after.parts for view in found.views]
    whole = found.after.parts["all"]
    page = Page(
        f"The shape of {found.after.name}'s space",
        [
            Section(
                "measures",
                "What the figures say",
                render(
                    "geometry_table.html",
                    sentences=list(found.meaning()),
                    remarks=found.remarks,
                    tables=tables,
                ),
                "Measured at unit length, and on the features as they are; the last columns are lines to read by.",
            ),
            _spectra(found),
            _cosines(found),
            _maps(found),
        ],
        f"{counted(whole.photos, 'photo')} of {counted(whole.classes, 'class', 'classes')} of {found.dataset}.",
        [
            Tile(f"{whole.unit['average_cosine']:.2f}", "average cosine", "#cosines"),
            Tile(f"{whole.unit['isoscore']:.3f}", "IsoScore", "#spectrum"),
            Tile(f"{whole.unit['participation_ratio']:.1f}", "directions share the variance", "#spectrum"),
            Tile(f"{whole.unit['class_separation']:.2f}", "class separation", "#measures"),
        ],
        "Made by fewsight",
    )
    write_page(path, page)


def _table(view: View, part: str) -> tuple[str, list[str], list[_Row]]:
    columns: list[str] = []
    values: list[dict[str, float]] = []
    for space in view.spaces:
        held = space.parts[part]
        columns.append(_title(view, space))
        values += [held.unit, held.raw]
    lines = view.after.parts[part].lines
    values += [lines["collapsed"], lines["white"]]
    rows = [
        _Row(words, meaning, tuple(_shown(held.get(key, math.nan)) for held in values))
        for key, (words, meaning) in MEASURES.items()
    ]
    return _heading(part, view), columns, rows


def _title(view: View, space: Space) -> str:
    if view.before is None:
        return space.name
    when = "after" if space is view.after else "before"
    return f"{when}: {space.name}" if view.name == "backbone" else f"{when}, behind the {view.name}"


def _heading(part: str, view: View) -> str:
    held = view.after.parts[part]
    name = {"all": "All photos", TRAINED_ON: TRAINED_ON.capitalize(), HELD_OUT: HELD_OUT.capitalize()}
    place = "" if view.name == "backbone" else f", behind the {view.name}"
    count = f"{counted(held.photos, 'photo')} of {counted(held.classes, 'class', 'classes')}"
    return f"{name.get(part, f'Split {part}')}{place}: {count}"


def _shown(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def variance_shares(features: Tensor) -> Tensor:
    """Shares of the variance along the principal directions, `[min(N - 1, D)]`, descending; zeros without variance."""
    N, D = features.shape
    centred = features.double() - features.double().mean(0)
    if N > D:
        variances = torch.linalg.eigvalsh(centred.T @ centred).flip(0).clamp(min=0)
    else:
        variances = torch.linalg.svdvals(centred).square()[: max(1, N - 1)]
    total = variances.sum()
    return variances / total if total > 0 else variances


def _spectra(found: Geometry) -> Section:
    lead = "A flat curve uses many directions, a steep one few. Classes that are points end early."
    plots = [_spectrum(view) for view in found.views]
    return Section("spectrum", "The spectrum", render("geometry_plots.html", plots=plots), lead)


def _spectrum(view: View) -> _Plot:
    shares = [variance_shares(unit_rows(space.features)) for space in view.spaces]
    longest = max(2, *(len(share) for share in shares))
    lines = [
        _Line(_title(view, space), class_colour(index, 4), _log_log(share, longest))
        for index, (space, share) in enumerate(zip(view.spaces, shares, strict=True))
    ]
    D = view.after.features.shape[1]
    lines.append(
        _Line("white space", class_colour(9, 10), _log_log(torch.full((longest,), 1 / D), longest), True)
    )
    whole = view.after.parts["all"]
    if 1 < whole.classes <= longest:
        simplex = torch.full((whole.classes - 1,), 1 / (whole.classes - 1))
        lines.append(
            _Line("classes collapsed to points", class_colour(3, 10), _log_log(simplex, longest), True)
        )
    decades = [10**power for power in range(5) if 10**power <= longest]
    place = "" if view.name == "backbone" else f", behind the {view.name}"
    return _Plot(
        f"Share of the variance along each direction, largest first{place}",
        "direction (logarithmic)",
        tuple(lines),
        tuple((math.log(rank) / math.log(longest), str(rank)) for rank in decades),
        tuple((1 + power / 5, f"{100 * 10.0**power:g} %") for power in (0, -1, -2, -3, -4, -5)),
    )


def _log_log(shares: Tensor, longest: int) -> str:
    shown = [share for share in shares.tolist() if share >= LEAST_SHARE]
    if not shown:
        shown = [LEAST_SHARE]
    xs = [math.log(rank) / math.log(longest) for rank in range(1, len(shown) + 1)]
    ys = [math.log10(share / LEAST_SHARE) for share in shown]
    return curve_path(xs, ys, width=WIDTH, height=HEIGHT, top=-math.log10(LEAST_SHARE))


def cosine_histogram(features: Tensor, labels: Tensor, bins: int = BINS) -> tuple[Tensor, Tensor]:
    """Shares of the pairs by cosine in equal bins from -1 to 1: within classes and between them, each `[bins]`.

    Each sums to 1, or is 0 where there is no such pair.
    """
    unit = unit_rows(features.float())
    above = torch.ones(len(unit), len(unit), dtype=torch.bool).triu(1)
    same = labels[:, None] == labels
    cosines = (unit @ unit.T).clamp(-1, 1)
    counted_pairs = [torch.histc(cosines[above & kind], bins, -1, 1) for kind in (same, ~same)]
    within, between = (count / count.sum().clamp(min=1) for count in counted_pairs)
    return within, between


def _shown_spaces(found: Geometry) -> Iterator[tuple[View, Space]]:
    """Every space that has pictures of its own."""
    return ((view, space) for view in found.views for space in view.spaces)


def _cosines(found: Geometry) -> Section:
    chosen = _spread(len(found.collection), MOST_PAIRED)
    labels = torch.from_numpy(found.collection.targets())[chosen]
    plots = []
    for view, space in _shown_spaces(found):
        both = cosine_histogram(space.features[chosen], labels)
        top = max(float(share.max()) for share in both) or 1.0
        names = ("two photos of one class", "two photos of different classes")
        lines = tuple(
            _Line(name, class_colour(2 - 2 * index, 4), _steps(share, top))
            for index, (name, share) in enumerate(zip(names, both, strict=True))
        )
        x_ticks = tuple((at, f"{2 * at - 1:g}") for at in (0, 0.25, 0.5, 0.75, 1))
        y_ticks = tuple((at, f"{100 * at * top:.0f} %") for at in (0, 0.5, 1))
        plots.append(_Plot(_title(view, space), "cosine of two photos", lines, x_ticks, y_ticks))
    lead = (
        "Likeness of two photos. All far to the right: a narrow cone, everything looks alike. The further apart the "
        "two curves, the better classes can be told."
    )
    return Section("cosines", "The cosines", render("geometry_plots.html", plots=plots), lead)


def _steps(shares: Tensor, top: float) -> str:
    bins = len(shares)
    xs = [edge / bins for index in range(bins) for edge in (index, index + 1)]
    ys = [share for share in shares.tolist() for _ in range(2)]
    return curve_path(xs, ys, width=WIDTH, height=HEIGHT, top=top)


def _maps(found: Geometry) -> Section:
    chosen = _spread(len(found.collection), MOST_ON_MAP)
    labels = found.collection.targets()
    classes = found.collection.classes
    maps = []
    for view, space in _shown_spaces(found):
        places = place(space.features[chosen].numpy()).tolist()
        points = tuple(
            _Point(x, y, int(labels[row]), found.collection.file(row))
            for row, (x, y) in zip(chosen, places, strict=True)
        )
        maps.append(_Map(_title(view, space), points))
    body = render(
        "geometry_maps.html",
        maps=maps,
        classes=classes,
        colour=lambda index: class_colour(index, len(classes)),
        method=choose_method(len(chosen)),
        left_out=len(found.collection) - len(chosen),
    )
    return Section("map", "A map", body, "Each dot is a photo, its colour the class.")


def _spread(count: int, most: int) -> Sequence[int]:
    """At most `most` of `count` indices, evenly spread."""
    return [index * count // min(count, most) for index in range(min(count, most))]
