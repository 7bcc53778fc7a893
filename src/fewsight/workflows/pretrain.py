"""`fewsight pretrain`: photos without labels make a backbone.

Photos are decoded once into a store; the objective's views are cut from it. Labelled photos, where there are any, are
partly held out: they watch the run, and at the end judge the backbone before and after on one low-shot task.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from fewsight import distributed
from fewsight.backbones.backbone import Backbone
from fewsight.data.layouts import read_layout
from fewsight.data.pipelines import Kind
from fewsight.data.shards.index import count_up_to
from fewsight.data.shards.names import shard_files
from fewsight.data.transform import Transform
from fewsight.devices import keep_buffers, resolve_device
from fewsight.files import write_json
from fewsight.launch import launch
from fewsight.objectives.objective import Objective, Progress
from fewsight.progress import say
from fewsight.seeding import stream_seed
from fewsight.training.loop import TrainingResult, train
from fewsight.training.view_source import ViewSource
from fewsight.training.watch import CollapseWatch, WatchSettings
from fewsight.training.watch_neighbours import NeighbourProbe
from fewsight.workflows.labelled_photos import groups_of
from fewsight.workflows.pretrain_choice import (
    CONTINUED_WITH,
    ENOUGH,
    check_evidence,
    choice_sentence,
    continuing_recipe,
    fitted,
    seen_kind,
    view_remarks,
    with_scaled_settings,
    with_smaller_views,
)
from fewsight.workflows.pretrain_judge import Judged
from fewsight.workflows.pretrain_model import write_pretrained
from fewsight.workflows.pretrain_photos import FolderPhotos, Material, PhotoSet, ShardedPhotos
from fewsight.workflows.pretrain_recipe import (
    PretrainRecipe,
    check_pretext,
    make_backbone,
    make_objective,
    training_settings,
)
from fewsight.workflows.pretrain_result import PretrainRun, not_judged
from fewsight.workflows.recipes import as_values, checked, read_recipe, with_overrides
from fewsight.workflows.run_record import RunRecord, read_record, record_run
from fewsight.workflows.training_run import training_run

__all__ = ["PretrainRun", "pretrain", "pretrain_with"]

MOST_WATCHED = 256  # held-out photos whose features the collapse alarms read
MOST_MINUTES = 30.0  # a run that nobody sized ends within about this time


def pretrain(
    data: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    objective: str | None = None,
    backbone: str | None = None,
    kind: Kind | None = None,
    image_size: int | None = None,
    insist: bool = False,
    stop_on_collapse: bool = False,
    group_by: str | None = None,
    strict: bool = False,
    workers: int | None = None,
    device: str = "auto",
    devices: int = 1,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> PretrainRun:
    """Train a backbone on photos without labels, and judge it where some have one.

    Args:
        data: photos: a folder (class folders give labels for the verdict alone), a CSV, a zip, or tar shards
            (`photos-{000000..000099}.tar`, or a folder of them), which are read where they lie.
        out: the run's folder; `model/` in it is what `--backbone` takes.
        recipe: a packaged recipe or a YAML file; None chooses by the number of photos and the machine.
        overrides: "key=value" settings of the recipe.
        objective, backbone, kind, image_size: in place of the recipe's.
        insist: train from random weights on fewer photos than the evidence supports.
        stop_on_collapse: end the run when its features collapse, in place of warning.
        group_by: photos of a group never stand on both sides of the verdict.
        devices: processes on this machine that train together; they share every batch.
        strict: stop at the first photo that cannot be read.

    Raises:
        InvalidInput: too few photos, or a wrong setting.
        CollapsedRun: with `stop_on_collapse`.
        FewsightError: anything else that a person can mend; the message says what.
    """
    if devices != 1:
        together: PretrainRun = launch(pretrain, {**locals(), "devices": 1}, devices)
        return together
    shards = shard_files(data)
    reading = read_layout(data, labels="optional") if shards is None else None
    count = len(reading.collection) if reading is not None else count_up_to(shards or (), ENOUGH)
    changes: dict[str, Any] = {
        "objective": objective,
        "backbone": backbone,
        "kind": kind,
        "image_size": image_size,
    }
    wanted = _wanted(recipe, overrides, count, objective)
    wanted = replace(wanted, **{name: value for name, value in changes.items() if value is not None})
    check_evidence(count, wanted, insist=insist)
    with training_run(out, resume=resume, force=force, quiet=quiet) as folder:
        keep_buffers()
        photos: PhotoSet
        if reading is not None:
            say(reading.description)
            groups = groups_of(reading.collection, group_by)
            photos = FolderPhotos(reading.collection, groups, folder, strict, workers)
        else:
            photos = ShardedPhotos.of(shards or (), folder, strict=strict, workers=workers)
        run = _Run(photos, wanted, folder, seed, str(resolve_device(device)))
        sized = recipe is not None or any(text.startswith("training.steps") for text in overrides)
        return run.run(
            chosen=recipe is None,
            sized=sized,
            insist=insist,
            resume=resume,
            stop_on_collapse=stop_on_collapse,
        )


def pretrain_with(
    data: Path,
    out: Path,
    recipe: PretrainRecipe,
    *,
    store: Path | None = None,
    workers: int | None = None,
    device: str = "auto",
    seed: int = 0,
) -> PretrainRun:
    """One run with a recipe as it is, gone on with where it stood: a cell of a study.

    Args:
        store: folder of the decoded photos, which runs on the same photos share; None = the run's own.
    """
    collection = read_layout(data, labels="optional").collection
    with training_run(out, resume=True) as folder:
        keep_buffers()
        photos = FolderPhotos(collection, None, folder, workers=workers, store=store)
        run = _Run(photos, recipe, folder, seed, str(resolve_device(device)))
        return run.run(chosen=False, sized=True, insist=True, resume=True, stop_on_collapse=False)


def _wanted(
    recipe: str | Path | None, overrides: Sequence[str], photos: int, objective: str | None
) -> PretrainRecipe:
    if recipe is not None:
        return read_recipe(PretrainRecipe, recipe, overrides)
    given = [text.split("=", 1)[1].strip() for text in overrides if text.startswith("objective=")]
    fresh = any(text.replace(" ", "").lower() == "from_scratch=true" for text in overrides)
    usual = PretrainRecipe.objective if fresh else CONTINUED_WITH
    pretext = objective or (given[-1] if given else usual)
    check_pretext(pretext)
    values = as_values(continuing_recipe(max(2, photos), pretext))
    return checked(PretrainRecipe, with_overrides(values, overrides), "--set")


@dataclass
class _Run:
    """One run, step by step."""

    photos: PhotoSet
    recipe: PretrainRecipe
    folder: Path
    seed: int
    device: str

    def run(
        self, *, chosen: bool, sized: bool, insist: bool, resume: bool, stop_on_collapse: bool
    ) -> PretrainRun:
        torch.manual_seed(stream_seed(self.seed, "weights") >> 1)
        old = make_backbone(self.recipe, device=self.device, seed=self.seed)
        if chosen and not self.recipe.from_scratch and self.recipe.view_size is None:
            self.recipe = with_smaller_views(self.recipe, old)
        size = self.recipe.view_size or old.image_size[0]
        side = self.recipe.store_size or max(size, 8 * size // 7)
        stored = Transform(size=(side, side), interpolation=old.transform.interpolation)
        material = self.photos.material(stored, self.recipe, self.device, self.seed)
        count = len(material.rows)
        check_evidence(count, self.recipe, insist=insist)
        objective, remarks = self._prepared(material, sized=sized, resume=resume, old=old.name)
        judged = self.photos.judged(material.held_out, old)
        settings = training_settings(self.recipe, count)
        watch = CollapseWatch(
            settings.steps,
            WatchSettings(every=self.recipe.watch_every, stop_on_collapse=stop_on_collapse),
            held=None if judged is None else judged.images[:MOST_WATCHED],
        )
        result = train(
            objective,
            self._source(material, objective),
            settings,
            self.folder,
            seed=self.seed,
            probe=_probe(watch, None if judged is None else judged.probe()),
            probe_every=self.recipe.watch_every,
            on_step=watch,
        )
        alarms = (f"At step {alarm.step}: {alarm.sentence}." for alarm in watch.alarms)
        remarks = (*remarks, *alarms, *self.photos.remarks())
        photos = (count, len(material.held_out))
        if not result.finished or not distributed.is_main():  # the first process judges and writes
            return PretrainRun(self.folder, result, None, "pretrained", photos, remarks)
        return self._judge(objective, old, judged, result, photos, remarks)

    def _prepared(
        self, material: Material, *, sized: bool, resume: bool, old: str
    ) -> tuple[Objective, tuple[str, ...]]:
        """The objective, with the recipe filled in, recorded, and said."""
        count = len(material.rows)
        kind = self.recipe.kind or seen_kind(material.photos, material.rows, self.seed)
        remarks = tuple(view_remarks(self.recipe, kind))
        self.recipe = with_scaled_settings(replace(self.recipe, kind=kind), count)
        earlier = (
            read_record(self.folder).settings if resume and (self.folder / "run.yaml").exists() else None
        )
        if earlier is not None and not sized:  # what the machine's speed decided then stays as it was
            steps = earlier["training"]["steps"]
            self.recipe = replace(
                self.recipe, training=replace(self.recipe.training, **_length(earlier["training"]))
            )
            say(f"Going on with the {steps} steps that were chosen before.")
        # the network starts from the same weights as `old`, and is another object
        backbone = make_backbone(self.recipe, device=self.device, seed=self.seed)
        torch.manual_seed(stream_seed(self.seed, "weights") >> 1)
        objective = make_objective(self.recipe, backbone).to(self.device)
        took = seconds_per_step(objective, self._source(material, objective))
        seconds = float(distributed.all_reduce_max(torch.tensor(took, device=self.device)))  # of the slowest
        if not sized and earlier is None:
            self.recipe, words = fitted(self.recipe, seconds, MOST_MINUTES)
        else:
            settings = training_settings(self.recipe, count)
            _, words = fitted(replace(self.recipe, training=settings), seconds, math.inf)
        say(f"{old}: {choice_sentence(self.recipe, training_settings(self.recipe, count), count)} {words}")
        values = {**as_values(self.recipe), "backbone": old, "seed": self.seed}
        record = RunRecord("pretrain", values, {"data": self.photos.fingerprint})
        if distributed.is_main():
            record_run(self.folder, record, resume=resume)
        return objective, remarks

    def _source(self, material: Material, objective: Objective) -> ViewSource:
        backbone = objective.backbone()
        assert isinstance(backbone, Backbone)
        return ViewSource(
            material.photos,
            material.rows,
            objective.views,
            backbone.transform,
            self.recipe.batch_size,
            seed=self.seed,
            kind=self.recipe.kind or "photos",
            device=self.device,
        )

    def _judge(
        self,
        objective: Objective,
        old: Backbone,
        judged: Judged | None,
        result: TrainingResult,
        photos: tuple[int, int],
        remarks: tuple[str, ...],
    ) -> PretrainRun:
        trained = objective.backbone()
        assert isinstance(trained, Backbone)
        trained.requires_grad_(True).eval()
        trained.transform = old.transform  # views may have been smaller than what is seen in use
        verdict = None if judged is None else judged.verdict(trained, self.seed)
        if verdict is None or verdict.outcome == "not judged":
            remarks = (*remarks, not_judged(self.folder, old.name))
        keep_old = (
            verdict is not None
            and not self.recipe.from_scratch
            and verdict.outcome in ("worse", "no difference shown")
        )
        kept: Literal["pretrained", "old"] = "old" if keep_old else "pretrained"
        run = PretrainRun(self.folder, result, verdict, kept, photos, remarks)
        write_pretrained(
            self.folder,
            old,
            trained,
            self.recipe,
            run.summary(),
            self.photos.fingerprint,
            keep_old=keep_old,
        )
        write_json(self.folder / "verdict.json", run.summary())
        return run


def _length(training: Mapping[str, Any]) -> dict[str, Any]:
    return {name: training[name] for name in ("steps", "warmup_steps", "backbone_frozen_steps")}


def _probe(
    watch: CollapseWatch, neighbours: NeighbourProbe | None
) -> Callable[[Objective, int], Mapping[str, float]]:
    """What the log gets besides losses: the alarms' measures, and k-NN where there are labels."""

    def look(objective: Objective, step: int) -> Mapping[str, float]:
        return {**watch.logged(), **({} if neighbours is None else neighbours(objective, step))}

    return look


def seconds_per_step(objective: Objective, source: ViewSource) -> float:
    """Of a step with its data, measured on a copy so that the run itself is not touched."""
    trial = copy.deepcopy(objective).train()
    trial.before_step(Progress(0, 1))
    took = 0.0
    for number in range(2):  # the first call warms up
        started = time.perf_counter()
        trial.backward(source(number))
        took = time.perf_counter() - started
    return took
