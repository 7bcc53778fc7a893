"""`fewsight adapt`: labelled photos make a better backbone, if they do.

Stage 1 trains the backbone, stage 2 a head on its frozen features. Photos that neither was trained on, nor chose the
step to keep, judge it; the adapted backbone is kept where it is shown to be better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from torch import Tensor

from fewsight import distributed
from fewsight.backbones.backbone import Backbone
from fewsight.backbones.loading import load_backbone
from fewsight.data.store import PixelStore
from fewsight.errors import InvalidInput
from fewsight.files import write_json
from fewsight.launch import launch
from fewsight.objectives.label_contrastive import LabelContrastive
from fewsight.progress import say
from fewsight.protocols.verdict import Verdict, compare_answers, judge_features
from fewsight.training.settings import HOUSEKEEPING
from fewsight.workflows.adapt_data import LabelledData, read_labelled_data, usable_labels
from fewsight.workflows.adapt_model import (
    MOST_SUPPORT,
    name_adapted,
    spread_rows,
    write_backbone,
    write_classifier,
)
from fewsight.workflows.adapt_plan import plan_photos
from fewsight.workflows.adapt_recipe import AdaptRecipe
from fewsight.workflows.adapt_result import AdaptRun
from fewsight.workflows.adapt_stage2 import head_answers, train_linear
from fewsight.workflows.adapt_training import (
    Adapted,
    AdaptTask,
    adapt_backbone,
    encode_rows,
)
from fewsight.workflows.projectors import Projectors
from fewsight.workflows.recipes import as_values, read_recipe, recorded_options
from fewsight.workflows.run_record import RunRecord, record_run
from fewsight.workflows.training_run import stored_once, training_run

__all__ = ["AdaptRun", "adapt", "adapt_recipe"]

Keep = Literal["judged", "adapted"]


def adapt_recipe(
    preset: str, recipe: str | Path | None, overrides: Sequence[str], method: str | None
) -> AdaptRecipe:
    """The recipe of a preset or file, with overrides."""
    chosen = read_recipe(AdaptRecipe, recipe if recipe is not None else f"adapt_{preset}", overrides)
    return chosen if method is None else replace(chosen, method=method)


def adapt(
    data: str | Path,
    out: str | Path,
    *,
    preset: Literal["lowshot", "published"] = "lowshot",
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    method: str | None = None,
    backbone: str = "auto",
    image_size: int | None = None,
    keep: Keep = "judged",
    group_by: str | None = None,
    class_level: Literal["top", "leaf"] = "top",
    skip_empty: bool = False,
    strict: bool = False,
    workers: int | None = None,
    device: str = "auto",
    devices: int = 1,
    seed: int | None = None,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> AdaptRun:
    """Adapt a backbone to labelled photos, and judge it on photos that the training did not see.

    Args:
        data: class folders or a CSV; splits `train`, `val` and `test` are kept to. One photo a class will do.
        out: the run's folder; `model/` in it is what `--backbone` takes.
        preset: `lowshot`, or `published`: what the authors' code does, without its errors.
        recipe: a packaged recipe, a YAML file, or the `run.yaml` of a run to repeat, in place of the preset.
        overrides: "key=value" settings of the recipe.
        method: of `METHODS`, in place of the recipe's.
        backbone, image_size, device: as in `load_backbone`.
        keep: `judged`: `model/` holds the adapted backbone where it was shown to be better, else the old one;
            `adapted`: the adapted one in any case.
        group_by: photos of a group never stand on both sides.
        strict: stop at the first photo that cannot be read.
        devices: processes on this machine that train together; all of them make one contrast set.
        seed: None takes that of a run to repeat, else 0.

    Raises:
        InvalidInput: fewer than two classes, no labels, or a wrong setting.
        CollapsedRun: the features became equal.
        FewsightError: anything else that a person can mend; the message says what.
    """
    if devices != 1:
        together: AdaptRun = launch(adapt, {**locals(), "devices": 1}, devices)
        return together
    chosen = adapt_recipe(preset, recipe, overrides, method)
    if chosen.of_method.objective is None:
        raise InvalidInput(f"method {chosen.method} trains nothing; use it with --compare.")
    earlier = recorded_options(AdaptRecipe, recipe)[0]
    seed = int(earlier.get("seed", 0)) if seed is None else seed
    backbone = str(earlier.get("backbone", backbone)) if backbone == "auto" else backbone
    size = tuple(earlier.get("image_size", ())) or None if image_size is None else image_size
    read = read_labelled_data(Path(data), class_level=class_level, skip_empty=skip_empty, group_by=group_by)
    with training_run(out, resume=resume, force=force, quiet=quiet) as folder:
        old, trained = (load_backbone(backbone, image_size=size, device=device) for _ in range(2))
        settings = {
            **as_values(chosen),
            "backbone": old.name,
            "image_size": list(old.image_size),
            "keep": keep,
            "group_by": group_by,
            "class_level": class_level,
            "seed": seed,
        }
        if distributed.is_main():
            record = RunRecord("adapt", settings, {"data": read.fingerprint})
            record_run(folder, record, resume=resume, free=HOUSEKEEPING)
        say(read.description)
        store = stored_once(read.collection, old.transform, folder / "store", workers=workers)
        return _Run(read, store, old, trained, chosen, folder, keep, seed, strict).run()


@dataclass
class _Run:
    """One run, step by step."""

    data: LabelledData
    store: PixelStore
    old: Backbone
    trained: Backbone
    recipe: AdaptRecipe
    folder: Path
    keep: Keep
    seed: int
    strict: bool

    def run(self) -> AdaptRun:
        labels, left_out = usable_labels(self.data, self.store, strict=self.strict)
        early = (*self.data.warnings, *left_out, *self._advice())
        for remark in early:  # said before anything can fail for what was left out
            say(remark)
        plan = plan_photos(
            self.data.collection,
            labels,
            judged_share=self.recipe.judged_share,
            stop_share=self.recipe.stop_share if self.recipe.stop_every else 0.0,
            groups=self.data.groups,
            seed=self.seed,
        )
        for remark in plan.remarks:
            say(remark)
        remarks = (*early, *plan.remarks)
        task = AdaptTask(self.store, labels, plan.train, plan.stop, plan.judged)
        adapted = adapt_backbone(self.trained, task, self.recipe, self.folder, seed=self.seed)
        photos = (len(plan.train), len(plan.stop), len(plan.judged))
        linear = None
        if adapted.finished and self.recipe.stage2.head == "linear":
            linear = train_linear(adapted.backbone, task, self.recipe, self.folder / "stage2", seed=self.seed)
            if not linear.finished:
                adapted = replace(adapted, result=linear.result)
        if not adapted.finished or not distributed.is_main():  # the first process judges and writes
            assert adapted.result is not None
            done = adapted.result, adapted.step, adapted.stopping
            return AdaptRun(self.folder, *done, None, None, "old", photos, remarks)
        return self._judge(task, adapted, linear, photos, (*remarks, *_alarms(adapted)))

    def _advice(self) -> Iterator[str]:
        rate, optimiser = self.recipe.backbone_rate(self.old), self.recipe.training.optimiser
        if rate > 1e-3 and self.recipe.of_method.tuning == "full" and optimiser.startswith("adam"):
            yield (
                f"The backbone's learning rate {rate:g} is high for {optimiser}: above 0.001 vision "
                "transformers often collapse to one class."
            )

    def _judge(
        self,
        task: AdaptTask,
        adapted: Adapted,
        linear: Adapted | None,
        photos: tuple[int, int, int],
        remarks: tuple[str, ...],
    ) -> AdaptRun:
        rows = numpy.concatenate([task.train, task.judged])
        before, after = (encode_rows(model, self.store, rows) for model in (self.old, adapted.backbone))
        learnt = torch.arange(len(rows)) < len(task.train)
        groups = None if self.data.groups is None else [self.data.groups[row] for row in rows.tolist()]
        names = ("the old backbone", "the adapted one")
        targets = torch.from_numpy(task.labels[rows])
        verdict = judge_features(before, after, targets, learnt=learnt, groups=groups, names=names)
        head_verdict = self._head_verdict(task, before, after, linear)
        kept: Literal["adapted", "old"] = "adapted" if verdict.improved or self.keep == "adapted" else "old"
        assert adapted.result is not None
        done = adapted.result, adapted.step, adapted.stopping
        run = AdaptRun(self.folder, *done, verdict, head_verdict, kept, photos, remarks)
        self._write(run, adapted, task, before[: len(task.train)], after[: len(task.train)], linear)
        return run

    def _head_verdict(
        self, task: AdaptTask, before: Tensor, after: Tensor, linear: Adapted | None
    ) -> Verdict | None:
        """Right answers of a probe on the old features against those of stage 2."""
        if not len(task.judged):
            return None
        head = "logistic" if self.recipe.stage2.head == "linear" else self.recipe.stage2.head
        truth, count = task.labels[task.judged], len(task.train)
        answers = [
            head_answers(head, features[:count], task.labels[task.train], features[count:])
            for features in (before, after)
        ]
        if linear is not None:
            scores = linear.classification.logits(after[count:])
            answers[1] = numpy.unique(task.labels[task.train])[scores.argmax(1).numpy()]
        right = [(found == truth).astype(float) for found in answers]
        groups = None
        if self.data.groups is not None:
            groups = [self.data.groups[row] for row in task.judged.tolist()]
        names = ("the old backbone", "the adapted one")
        return compare_answers(right[0], right[1], groups=groups, names=names)

    def _write(
        self,
        run: AdaptRun,
        trained: Adapted,
        task: AdaptTask,
        before: Tensor,
        after: Tensor,
        linear: Adapted | None,
    ) -> None:
        from fewsight.workflows.adapt_report import report_adapt

        assert run.verdict is not None
        classes = [self.data.collection.classes[k] for k in numpy.unique(task.labels[task.train])]
        provenance = {
            "data": self.data.name,
            "data_fingerprint": self.data.fingerprint,
            "from": self.old.name,
            "method": self.recipe.method,
            "step": run.step,
            "trained_on": len(task.train),
            "classes": classes,
            "verdict": run.verdict.as_values(),
        }
        adapted = name_adapted(trained.backbone, self.data.name)
        chosen, vectors = (adapted, after) if run.kept == "adapted" else (self.old, before)
        held = trained.projectors
        if linear is not None and run.kept == "adapted":
            tensors = linear.classification.head.state_dict()
            write_backbone(
                self.folder / "model", chosen, provenance, classes=classes, head=tensors, projectors=held
            )
        else:
            self._write_classifier(chosen, vectors, task, provenance, held if run.kept == "adapted" else None)
        if run.kept == "old":
            write_backbone(self.folder / "adapted", adapted, provenance, classes=classes, projectors=held)
        write_json(self.folder / "verdict.json", run.summary())
        report_adapt(run, self.recipe, self.data, self.old)

    def _write_classifier(
        self,
        backbone: Backbone,
        vectors: Tensor,
        task: AdaptTask,
        provenance: dict[str, Any],
        projectors: Projectors | None,
    ) -> None:
        places = spread_rows(task.train, task.labels[task.train], MOST_SUPPORT, self.seed)
        rows, collection = task.train[places].tolist(), self.data.collection
        head = "logistic" if self.recipe.stage2.head == "linear" else self.recipe.stage2.head
        write_classifier(
            self.folder / "model",
            backbone,
            head,
            vectors[torch.from_numpy(places)],
            [collection.classes[task.labels[row]] for row in rows],
            [collection.file(row) for row in rows],
            None if self.data.groups is None else [self.data.groups[row] for row in rows],
            provenance,
            seed=self.seed,
            projectors=projectors,
        )


def _alarms(adapted: Adapted) -> Iterator[str]:
    words = adapted.objective.alarm() if isinstance(adapted.objective, LabelContrastive) else None
    if words is not None:
        yield f"At the end of the training {words}"
    if adapted.stopping is not None and adapted.step == 0:
        yield "On the photos that choose the step no step of the training was better than the old weights."
