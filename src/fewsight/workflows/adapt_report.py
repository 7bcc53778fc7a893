"""The page of `fewsight adapt`: the verdict, the figures behind it, the curve of the loss, what was run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fewsight.backbones.backbone import Backbone
from fewsight.protocols.verdict import Verdict
from fewsight.report.facts import Licence, RunFacts
from fewsight.report.page import Page, Section, Tile, render, write_page
from fewsight.report.plots import Line, Plot, class_colour, curve_path
from fewsight.report.sections import run_section
from fewsight.report.wording import counted
from fewsight.workflows.adapt_data import LabelledData
from fewsight.workflows.adapt_recipe import AdaptRecipe
from fewsight.workflows.adapt_result import AdaptRun

__all__ = ["report_adapt"]

TONES = {"better": "yours", "worse": "wrong", "no difference shown": "doubt", "not judged": "none"}
MOST_POINTS = 400  # of a curve


def report_adapt(run: AdaptRun, recipe: AdaptRecipe, data: LabelledData, backbone: Backbone) -> None:
    """Write the page of a finished run."""
    assert run.verdict is not None
    verdict = run.verdict
    heads = {
        "nearest class mean": verdict,
        "head of stage 2": run.head_verdict,
    }
    table = [
        (name, _share(held.before.mean), _share(held.after.mean), _difference(held))
        for name, held in heads.items()
        if held is not None and held.before.n
    ]
    body = render(
        "verdict.html",
        sentences=[verdict.sentence, run.kept_sentence()],
        remarks=run.remarks,
        columns=("before", "after", "difference, paired"),
        rows=table,
    )
    sections = [
        Section(
            "verdict",
            "Did it help?",
            body,
            "Judged on photos that were neither trained on nor used to choose the step.",
        ),
        *_curves(run.folder / "metrics.jsonl", _collapsed(recipe, len(data.collection.classes))),
        *run_section(
            RunFacts(
                command=f"fewsight adapt {data.name} --out {run.folder.name}",
                settings=_settings(run, recipe, backbone),
                licences=(Licence("backbone weights", backbone.licence.name, backbone.licence.note),),
            )
        ),
    ]
    page = Page(
        f"{backbone.name} adapted on {data.name}",
        sections,
        f"Trained on {counted(run.photos[0], 'photo')} of {counted(len(data.collection.classes), 'class', 'classes')}, "
        f"judged on {counted(run.photos[2], 'photo')}.",
        [Tile(verdict.outcome, "is the adapted backbone", "#verdict", TONES[verdict.outcome])],
        "Made by fewsight",
    )
    write_page(run.folder / "report.html", page)


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def _difference(verdict: Verdict) -> str:
    held = verdict.difference
    if math.isnan(held.low):
        return "not judged"
    return f"{100 * held.mean:+.1f} ({100 * held.low:+.1f} to {100 * held.high:+.1f})"


def _settings(run: AdaptRun, recipe: AdaptRecipe, backbone: Backbone) -> dict[str, Any]:
    method = recipe.of_method
    return {
        "backbone": backbone.name,
        "method": f"{recipe.method}: {method.summary}",
        "trained": {"full": "everything", "layer_norm": "LayerNorms", "lora": "low-rank additions"}[
            method.tuning
        ],
        "steps": run.result.steps,
        "learning rate of the backbone": f"{recipe.backbone_rate(backbone):g}",
        "head of stage 2": recipe.stage2.head,
    }


def _curves(path: Path, collapsed: float | None) -> Iterator[Section]:
    """The loss over the steps, and for the contrastive loss what it is when all features are equal."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    points = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    if len(points) < 2:
        return
    points = points[:: max(1, len(points) // MOST_POINTS)]
    top = 1.05 * max(loss for _, loss in points)
    top = max(top, 0.0 if collapsed is None else 1.05 * collapsed)
    last = max(1, points[-1][0])
    curves = [_line("loss", [step / last for step, _ in points], [loss for _, loss in points], top, 0)]
    if collapsed is not None:
        curves.append(
            _line("all features equal: log(M - 1)", [0, 1], [collapsed, collapsed], top, 3, dashed=True)
        )
    plot = Plot(
        "The loss that was minimised",
        "step",
        tuple(curves),
        ((0.0, "0"), (1.0, str(last))),
        tuple((share, f"{share * top:.2f}") for share in (0.0, 0.5, 1.0)),
    )
    lead = "It need not come near 0: with several photos of a class its floor is about the logarithm of their number."
    yield Section("loss", "The training", render("geometry_plots.html", plots=[plot]), lead)


def _line(
    name: str, xs: list[float], ys: list[float], top: float, colour: int, *, dashed: bool = False
) -> Line:
    path = curve_path(xs, [max(0.0, y) for y in ys], width=480, height=200, top=top or 1.0)
    return Line(name, class_colour(colour, 10), path, dashed)


def _collapsed(recipe: AdaptRecipe, classes: int) -> float | None:
    """The contrastive loss of a batch of equal features."""
    if recipe.of_method.objective != "label_contrastive":
        return None
    size = recipe.batch if recipe.sampling == "shuffled" else min(recipe.classes, classes) * recipe.photos
    base = recipe.loss.base_temperature
    factor = 1.0 if base is None else recipe.loss.temperature / base
    return factor * math.log(max(1, size * recipe.views - 1))
