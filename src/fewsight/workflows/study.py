"""`fewsight study`: a grid of pretraining methods under one budget, judged alike.

Every cell is one method and one seed: the same network, photos and steps. Each trained backbone is then judged on
low-shot tasks, and beside a reference method of the same seed on the same draws. A finding is stated only where the
paired interval leaves 0 to the same side for every seed; else "no difference shown". Nothing else is ranked: an
interval over episodes does not hold what another seed of the training would have given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewsight.data.fingerprint import fingerprint
from fewsight.data.layouts import read_layout
from fewsight.errors import InvalidInput
from fewsight.files import run_folder, write_json
from fewsight.progress import quieted, say
from fewsight.workflows.evaluate import evaluate
from fewsight.workflows.evaluation_results import Evaluation
from fewsight.workflows.pretrain import pretrain_with
from fewsight.workflows.pretrain_choice import check_evidence
from fewsight.workflows.pretrain_model import write_trained
from fewsight.workflows.pretrain_recipe import PretrainRecipe, make_backbone
from fewsight.workflows.recipes import as_values, checked, read_recipe
from fewsight.workflows.run_record import RunRecord, record_run
from fewsight.workflows.study_report import write_report

__all__ = ["JudgedSet", "StudyRecipe", "StudyRun", "study"]

# Of protocols with several measures the usual one alone: the more are compared, the more differ by chance.
MEASURES = {
    "knn": "accuracy, k-NN with k = 20",
    "multi-label": "mAP (average)",
    "segmentation": "mean IoU",
}


@dataclass(frozen=True)
class StudyRecipe:
    """A study.

    Attributes:
        base: what all cells share.
        cells: name -> what it changes in `base`, as {objective: dino, objective_settings: {collapse: none}}; null
            trains nothing.
        reference: the cell that the others are compared with.
        seeds: of the training; each is a run of its own.
    """

    base: PretrainRecipe = field(default_factory=PretrainRecipe)
    cells: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    reference: str = "dino-centring"
    seeds: int = 2

    def __post_init__(self) -> None:
        if not self.cells:
            raise InvalidInput("the study has no cells; give cells: {NAME: {objective: ...}}.")
        if self.reference not in self.cells:
            raise InvalidInput(f"reference is {self.reference!r}; expected one of {', '.join(self.cells)}.")
        if self.seeds < 1:
            raise InvalidInput(f"seeds is {self.seeds}; expected at least 1.")

    def cell(self, name: str) -> PretrainRecipe | None:
        """The whole recipe of a cell; None where nothing is trained."""
        changes = self.cells[name]
        if changes is None:
            return None
        values = as_values(self.base)
        return checked(PretrainRecipe, _merged(values, changes), f"cell {name}")


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(values)
    for key, value in changes.items():
        held = both.get(key)
        both[key] = (
            _merged(held, value) if isinstance(value, Mapping) and isinstance(held, Mapping) else value
        )
    return both


@dataclass(frozen=True)
class JudgedSet:
    """Photos that judge: where they are, and by which protocol of `evaluate`."""

    path: Path
    protocol: str
    split: str | None = None

    @property
    def name(self) -> str:
        """For tables."""
        part = f" ({self.split})" if self.split else ""
        return f"{self.path.name}{part}, {self.protocol}"


@dataclass(frozen=True)
class StudyRun:
    """What a study gave: its folder, the rows of its table, and its findings in words."""

    folder: Path
    rows: tuple[dict[str, Any], ...]
    findings: tuple[str, ...]
    unfinished: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "folder": str(self.folder),
            "rows": list(self.rows),
            "findings": list(self.findings),
            "unfinished": list(self.unfinished),
        }

    def sentences(self) -> Iterator[str]:
        """The result in words."""
        if self.unfinished:
            yield (
                f"Interrupted; {len(self.unfinished)} cells are unfinished: {', '.join(self.unfinished)}. Run again "
                "with --resume."
            )
            return
        yield from self.findings
        yield f"Table: {self.folder / 'study.md'} and study.csv; picture: {self.folder / 'study.png'}"


def study(
    data: str | Path,
    out: str | Path,
    *,
    recipe: str | Path = "study_small",
    overrides: Sequence[str] = (),
    judge: Sequence[tuple[str, str | Path]] = (),
    episodes: int = 600,
    workers: int | None = None,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> StudyRun:
    """Pretrain every cell of a grid on the same photos, and judge them alike.

    Args:
        data: photos to pretrain on.
        out: the study's folder; finished cells are kept and never made again.
        recipe: a packaged study or a YAML file.
        judge: (protocol, DATA or DATA:SPLIT) pairs; protocols of `evaluate`. None: `episodes` and `knn` on `data`.
        episodes: where the protocol has any.

    Raises:
        InvalidInput: a cell, a protocol or a path is wrong; nothing is trained before all are checked.
    """
    chosen = read_recipe(StudyRecipe, recipe, overrides)
    for name in chosen.cells:
        chosen.cell(name)
    sets = _judged_sets(judge, Path(data))
    collection = read_layout(data, labels="optional").collection
    check_evidence(len(collection), chosen.base, insist=True)
    with quieted(quiet), run_folder(out, resume=resume, force=force) as folder:
        settings = {
            **as_values(chosen),
            "judge": [[one.protocol, str(one.path), one.split] for one in sets],
            "episodes": episodes,
        }
        record_run(folder, RunRecord("study", settings, {"data": fingerprint(collection)}), resume=resume)
        options = {"workers": workers, "device": device}
        unfinished = _train_cells(Path(data), folder, chosen, options)
        if unfinished:
            return StudyRun(folder, (), (), unfinished)
        rows = [
            row
            for seed in range(chosen.seeds)
            for name in chosen.cells
            for row in _judged_rows(folder, chosen, name, seed, sets, episodes, options)
        ]
        alarms = [
            sentence
            for seed in range(chosen.seeds)
            for name in chosen.cells
            for sentence in _alarms(folder, name, seed)
        ]
        findings = write_report(folder, rows, chosen.reference, alarms)
        return StudyRun(folder, tuple(rows), findings)


def _judged_sets(judge: Sequence[tuple[str, str | Path]], data: Path) -> list[JudgedSet]:
    if not judge:
        return [JudgedSet(data, "episodes"), JudgedSet(data, "knn")]
    found = []
    for protocol, source in judge:
        path, _, split = str(source).partition(":") if not Path(source).exists() else (str(source), "", "")
        if not Path(path).exists():
            raise InvalidInput(f"{path} is not there; give --judge PROTOCOL=DATA or PROTOCOL=DATA:SPLIT.")
        found.append(JudgedSet(Path(path), protocol, split or None))
    return found


def _place(folder: Path, name: str, seed: int) -> Path:
    return folder / "cells" / f"{name}-seed{seed}"


def _train_cells(
    data: Path, folder: Path, recipe: StudyRecipe, options: Mapping[str, Any]
) -> tuple[str, ...]:
    """Train what is not there yet; the names of the cells that an interruption left."""
    wanted = [(name, seed) for seed in range(recipe.seeds) for name in recipe.cells]
    for number, (name, seed) in enumerate(wanted):
        place = _place(folder, name, seed)
        if (place / "model" / "model.json").exists():
            continue
        say(f"Cell {number + 1} of {len(wanted)}: {name}, seed {seed}.")
        cell = recipe.cell(name)
        if cell is None:
            write_trained(place / "model", make_backbone(recipe.base, seed=seed), {"trained": "not at all"})
            continue
        run = pretrain_with(data, place, cell, store=folder / "store", seed=seed, **options)
        if not run.result.finished:
            return tuple(f"{left}, seed {s}" for left, s in wanted[number:])
    return ()


def _alarms(folder: Path, name: str, seed: int) -> Iterator[str]:
    """What the watch told while a cell was trained."""
    kept = _place(folder, name, seed) / "verdict.json"
    if kept.exists():
        for remark in json.loads(kept.read_text(encoding="utf-8"))["remarks"]:
            if "collapsed" in remark:
                yield f"{name}, seed {seed}: {remark}"


def _judged_rows(
    folder: Path,
    recipe: StudyRecipe,
    name: str,
    seed: int,
    sets: Sequence[JudgedSet],
    episodes: int,
    options: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The figures of one cell, kept in its folder."""
    place = _place(folder, name, seed)
    kept = place / "judged.json"
    if kept.exists():
        rows: list[dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8"))
        return rows
    reference = _place(folder, recipe.reference, seed) / "model"
    rows = []
    for one in sets:
        say(f"Judging {name}, seed {seed}, on {one.name}.")
        found = evaluate(
            one.path,
            protocol=one.protocol,
            backbone=str(place / "model"),
            against=None if name == recipe.reference else str(reference),
            split=one.split,
            episodes=episodes,
            **options,
        )
        rows += _rows(found, name, seed, one)
    write_json(kept, rows)
    return rows


def _rows(found: Evaluation, name: str, seed: int, judged: JudgedSet) -> list[dict[str, Any]]:
    common = {"cell": name, "seed": seed, "judged_on": judged.name}
    # the reference's own figures stand in its own rows
    own = {_measure(result.as_dict()): result.metric for result in found.results if not result.of_rival}
    wanted = set(_usual(own, judged.protocol))
    rows: list[dict[str, Any]] = [
        {**common, "what": "figure", "measure": _measure(result.as_dict()), **_ends(result.as_dict())}
        for result in found.results
        if not result.of_rival and _measure(result.as_dict()) in wanted
    ]
    for what, comparison in found.comparisons.items():
        if MEASURES.get(judged.protocol) in own.values() and what not in wanted:
            continue
        difference = comparison.difference
        ends = {"mean": difference.mean, "low": difference.low, "high": difference.high, "n": difference.n}
        rows.append({**common, "what": "difference", "measure": what, **ends})
    return rows


def _usual(measures: Mapping[str, str], protocol: str) -> list[str]:
    """Of measures (in words -> metric) the usual one where the protocol has one, else all that are no by-products."""
    usual = [words for words, metric in measures.items() if metric == MEASURES.get(protocol)]
    by_products = ("curve over shots", "over classes")
    return usual or [words for words in measures if not any(part in words for part in by_products)]


def _measure(result: Mapping[str, Any]) -> str:
    way = "" if result["way"] is None else f"{result['way']}-way "
    shot = "" if result["shot"] is None else f"{result['shot']}-shot "
    return f"{way}{shot}{result['metric']}"


def _ends(result: Mapping[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("mean", "low", "high", "n")}
