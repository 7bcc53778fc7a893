"""`fewsight adapt --compare`: ways to adapt side by side, on the same photos, with the same budget.

A cell is one method, one number of labelled photos a class, one draw of them. Every method that trains sees the same
number of photos in the same number of views, drawn by the same seed; no setting is chosen on the photos that judge.
Each photo is compared with itself: intervals are over photos, the draws averaged. Finished cells are kept, and a
killed comparison goes on inside the cell that it was in.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy
from numpy.typing import NDArray

from fewsight.backbones.loading import load_backbone
from fewsight.data.store import PixelStore
from fewsight.data.stored_photos import store_photos
from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Interval, paired_interval
from fewsight.files import run_folder, write_json, write_text
from fewsight.names import closest
from fewsight.progress import duration, quieted, say
from fewsight.protocols.low_shot import low_shot_rows
from fewsight.report.wording import counted
from fewsight.workflows.adapt import adapt_recipe
from fewsight.workflows.adapt_data import LabelledData, read_labelled_data, usable_labels
from fewsight.workflows.adapt_model import spread_rows
from fewsight.workflows.adapt_plan import PhotoPlan, plan_photos
from fewsight.workflows.adapt_recipe import METHODS, AdaptRecipe
from fewsight.workflows.adapt_stage2 import head_answers
from fewsight.workflows.adapt_training import AdaptTask, adapt_backbone, encode_rows
from fewsight.workflows.recipes import as_values
from fewsight.workflows.run_record import RunRecord, record_run

__all__ = ["Comparison", "ComparisonRow", "compare_methods"]

BEFORE = ("nearest_mean", "linear_probe")  # what the old backbone gives with prototypes and with a probe


@dataclass(frozen=True)
class ComparisonRow:
    """One method with one number of labelled photos a class.

    Attributes:
        method: of `METHODS`.
        shot: photos of each class; None = all.
        draws: how many draws are finished.
        answers: share of right answers of the method's own head, mean over draws and photos.
        gain: that minus the linear probe on the old features, paired over photos; None for the probe itself.
        gains: the same of each draw.
        prototypes: share of right answers of prototypes on the method's features.
        prototype_gain: that minus prototypes on the old features; None where the features are the old ones.
    """

    method: str
    shot: int | None
    draws: int
    answers: float
    gain: Interval | None
    gains: tuple[float, ...]
    prototypes: float
    prototype_gain: Interval | None


@dataclass(frozen=True)
class Comparison:
    """What a comparison gave so far.

    Attributes:
        folder: with `comparison.json`, `comparison.md`, `cells/` and `run.yaml`.
        dataset: its name.
        rows: see `ComparisonRow`.
        judged: photos that judge.
        wanted, finished: cells.
        remarks: sentences that a person should read.
    """

    folder: Path
    dataset: str
    rows: tuple[ComparisonRow, ...]
    judged: int
    wanted: int
    finished: int
    remarks: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json` and `comparison.json`."""
        return {
            "folder": str(self.folder),
            "dataset": self.dataset,
            "judged": self.judged,
            "cells": {"wanted": self.wanted, "finished": self.finished},
            "rows": [
                {
                    "method": row.method,
                    "shot": row.shot,
                    "draws": row.draws,
                    "answers": row.answers,
                    "gain": _plain(row.gain),
                    "gains": list(row.gains),
                    "prototypes": row.prototypes,
                    "prototype_gain": _plain(row.prototype_gain),
                }
                for row in self.rows
            ],
            "remarks": list(self.remarks),
        }

    def table(self) -> Iterator[str]:
        """A Markdown table, in percent and points."""
        yield "| photos a class | method | right | against the probe | prototypes | against before |"
        yield "|---|---|---|---|---|---|"
        most = max((row.draws for row in self.rows), default=0)
        for row in self.rows:
            shot = "all" if row.shot is None else row.shot
            few = row.draws == 1 or row.draws < most
            name = row.method + (f" ({counted(row.draws, 'draw')})" if few else "")
            yield (
                f"| {shot} | {name} | {100 * row.answers:.1f} | {_points(row.gain)} | {100 * row.prototypes:.1f} "
                f"| {_points(row.prototype_gain)} |"
            )

    def sentences(self) -> Iterator[str]:
        """The result in words."""
        yield from self.remarks
        yield from self.table()
        for row in self.rows:
            if row.method == "lacvit" and row.prototype_gain is not None and row.gain is not None:
                yield _verdict(row)
        if self.finished < self.wanted:
            yield f"{self.finished} of {self.wanted} cells are finished: run again with --resume to go on."
        yield f"Table: {self.folder / 'comparison.md'}"


def _plain(interval: Interval | None) -> dict[str, float | int | None] | None:
    if interval is None:
        return None
    values = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {name: None if value != value else value for name, value in values.items()} | {"n": interval.n}


def _points(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    if interval.low != interval.low:
        return f"{100 * interval.mean:+.1f}"
    return f"{100 * interval.mean:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def _verdict(row: ComparisonRow) -> str:
    shots = "With all photos" if row.shot is None else f"With {row.shot} photos a class"
    assert row.prototype_gain is not None
    gain = row.prototype_gain
    word = "helps" if gain.low > 0 else "harms" if gain.high < 0 else "shows no difference"
    return f"{shots} label-aware contrastive adaptation {word}: {_points(gain)} points with prototypes."


def compare_methods(
    data: str | Path,
    out: str | Path,
    *,
    preset: Literal["lowshot", "published"] = "lowshot",
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    methods: Sequence[str] = (),
    shots: Sequence[int] = (),
    draws: int = 3,
    most_judged: int | None = None,
    backbone: str = "auto",
    image_size: int | None = None,
    group_by: str | None = None,
    class_level: Literal["top", "leaf"] = "top",
    skip_empty: bool = False,
    workers: int | None = None,
    device: str = "auto",
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> Comparison:
    """Run every method on every draw of labelled photos; the table is written anew after each cell.

    Args:
        data, preset, recipe, overrides, backbone, image_size, group_by, device, seed: as in `adapt`.
        methods: of `METHODS`; none = all of them.
        shots: numbers of labelled photos a class; none = all photos.
        draws: of the labelled photos, and seeds of the training.
        most_judged: judge by at most so many photos, evenly over the classes.

    Raises:
        InvalidInput: a method is unknown, a class has fewer photos than a shot asks for, or nothing can be judged.
    """
    chosen = adapt_recipe(preset, recipe, overrides, None)
    names = [*BEFORE, *(name for name in methods or METHODS if name not in BEFORE)]
    for name in names:
        if name not in METHODS:
            raise InvalidInput(f"method {name!r} is unknown. {closest(name, list(METHODS))}")
    if draws < 1 or any(shot < 1 for shot in shots):
        raise InvalidInput(f"draws is {draws} and shots {list(shots)}; expected at least 1.")
    read = read_labelled_data(Path(data), class_level=class_level, skip_empty=skip_empty, group_by=group_by)
    with quieted(quiet), run_folder(out, resume=resume, force=force) as folder:
        old = load_backbone(backbone, image_size=image_size, device=device)
        settings = {
            **as_values(chosen),
            "backbone": old.name,
            "image_size": list(old.image_size),
            "group_by": group_by,
            "most_judged": most_judged,
            "draws": draws,
            "seed": seed,
        }
        record_run(folder, RunRecord("adapt --compare", settings, {"data": read.fingerprint}), resume=resume)
        store = store_photos(read.collection, old.transform, folder / "store", workers=workers)
        labels, left_out = usable_labels(read, store)
        plan = _plan(read, labels, chosen, most_judged, seed)
        remarks = (*read.warnings, *left_out, *plan.remarks)
        wanted: list[int | None] = list(shots) if shots else [None]
        cells = [(shot, draw, name) for shot in wanted for draw in range(draws) for name in names]
        bench = _Bench(read, store, labels, plan, chosen, folder, (backbone, image_size, device), draws, seed)
        for number, (shot, draw, name) in enumerate(cells):
            bench.run(shot, draw, name)
            found = bench.comparison(cells, remarks)
            write_json(folder / "comparison.json", found.summary())
            write_text(folder / "comparison.md", "\n".join(found.table()) + "\n")
            if name == names[-1]:
                say(f"{number + 1} of {len(cells)} cells:")
                say("\n".join(found.table()))
        return bench.comparison(cells, remarks)


def _plan(
    data: LabelledData, labels: NDArray[numpy.int64], recipe: AdaptRecipe, most: int | None, seed: int
) -> PhotoPlan:
    plan = plan_photos(
        data.collection,
        labels,
        judged_share=recipe.judged_share,
        stop_share=0.0,
        groups=data.groups,
        seed=seed,
    )
    if not len(plan.judged):
        raise InvalidInput(f"nothing can be compared: {plan.remarks[-1]}")
    if most is None:
        return plan
    places = spread_rows(plan.judged, labels[plan.judged], most, seed)
    return replace(plan, judged=plan.judged[places])


Cell = tuple[int | None, int, str]


@dataclass
class _Bench:
    """The cells of one comparison."""

    data: LabelledData
    store: PixelStore
    labels: NDArray[numpy.int64]
    plan: PhotoPlan
    recipe: AdaptRecipe
    folder: Path
    source: tuple[str, int | None, str]
    draws: int
    seed: int

    def run(self, shot: int | None, draw: int, name: str) -> None:
        """Run one cell, unless it is finished."""
        path = self._path(shot, draw, name)
        if path.exists():
            return
        started = time.monotonic()
        recipe = replace(self.recipe, method=name, tuning=self.recipe.tuning if name == "lacvit" else None)
        task = AdaptTask(
            self.store, self.labels, self._train(shot, draw), self.plan.train[:0], self.plan.judged
        )
        work = path.with_suffix("")
        backbone = load_backbone(self.source[0], image_size=self.source[1], device=self.source[2])
        adapted = adapt_backbone(backbone, task, recipe, work, seed=self.seed + draw)
        if not adapted.finished:
            raise KeyboardInterrupt
        support, queries = (
            encode_rows(adapted.backbone, self.store, rows) for rows in (task.train, task.judged)
        )
        truth, targets = self.labels[task.judged], self.labels[task.train]
        prototypes = head_answers("prototypes", support, targets, queries)
        head = recipe.of_method.head
        if head == "trained":
            scores = adapted.classification.logits(queries.to(adapted.backbone.device))
            answers = numpy.unique(targets)[scores.argmax(1).cpu().numpy()]
        else:
            answers = head_answers(head, support, targets, queries)
        seconds = time.monotonic() - started
        write_json(
            path,
            {
                "photos": len(task.train),
                "seconds": round(seconds, 1),
                "answers": _bits(answers == truth),
                "prototypes": _bits(prototypes == truth),
            },
        )
        shutil.rmtree(work, ignore_errors=True)
        right = 100 * (answers == truth).mean()
        say(f"{path.stem}: {right:.1f} % of {len(truth)} photos, {duration(seconds)}")

    def _path(self, shot: int | None, draw: int, name: str) -> Path:
        return self.folder / "cells" / f"{'all' if shot is None else shot}-{draw}-{name}.json"

    def _train(self, shot: int | None, draw: int) -> NDArray[numpy.int64]:
        rows = self.plan.train
        if shot is None:
            return rows
        places = low_shot_rows(
            self.labels[rows], draw, per_class=shot, largest=shot, draws=self.draws, seed=self.seed
        )
        return rows[places]

    def comparison(self, cells: Sequence[Cell], remarks: tuple[str, ...]) -> Comparison:
        """What the finished cells say, those of earlier calls included."""
        held = {cell: json.loads(path.read_bytes()) for cell, path in self._finished().items()}
        order = {name: place for place, name in enumerate(METHODS)}
        shots = sorted({shot for shot, _, _ in held}, key=lambda shot: (shot is None, shot or 0))
        names = sorted({name for _, _, name in held}, key=lambda name: order[name])
        rows = [row for shot in shots for name in names if (row := self._row(held, shot, name)) is not None]
        finished = sum(cell in held for cell in cells)
        return Comparison(
            self.folder, self.data.name, tuple(rows), len(self.plan.judged), len(cells), finished, remarks
        )

    def _finished(self) -> dict[Cell, Path]:
        """Every cell in the folder."""
        found: dict[Cell, Path] = {}
        for path in sorted((self.folder / "cells").glob("*-*-*.json")):
            shot, draw, name = path.stem.split("-", 2)
            if name in METHODS:
                found[None if shot == "all" else int(shot), int(draw), name] = path
        return found

    def _row(self, held: dict[Cell, Any], shot: int | None, name: str) -> ComparisonRow | None:
        draws = [
            draw
            for draw in sorted({draw for _, draw, _ in held})
            if all((shot, draw, needed) in held for needed in (name, *BEFORE))
        ]
        if not draws:
            return None

        def right(method: str, what: str) -> NDArray[numpy.float64]:
            return numpy.stack(
                [_numbers(held[shot, draw, method][what]) for draw in draws]
            )  # [draws, photos]

        groups = None
        if self.data.groups is not None:
            groups = [self.data.groups[row] for row in self.plan.judged.tolist()]
        gains = right(name, "answers") - right("linear_probe", "answers")
        others = right(name, "prototypes") - right("nearest_mean", "prototypes")
        return ComparisonRow(
            name,
            shot,
            len(draws),
            float(right(name, "answers").mean()),
            None if name == "linear_probe" else paired_interval(gains.mean(0), groups),
            tuple(gains.mean(1).tolist()),
            float(right(name, "prototypes").mean()),
            None if name in BEFORE else paired_interval(others.mean(0), groups),
        )


def _bits(right: NDArray[numpy.bool_]) -> str:
    return "".join("1" if value else "0" for value in right.tolist())


def _numbers(bits: str) -> NDArray[numpy.float64]:
    return numpy.frombuffer(bits.encode("ascii"), dtype=numpy.uint8).astype(numpy.float64) - ord("0")
