"""`fewsight metatrain --head cst`: a head that says what is in a photo and where, on a frozen backbone.

Every photo is encoded once and its features are kept on disk (`StoredFeatures`); training then reads pairs of a support
and a query. Three kinds of supervision:

    image   class labels alone: targets and support masks are pseudo-masks; masks are never looked at, in choosing the
            weights neither
    pixel   every photo has a mask
    mixed   photos with a mask use it; the pseudo-mask enhancer is trained on those first, and serves the rest
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from fewsight import distributed
from fewsight.backbones.backbone import Backbone
from fewsight.backbones.encode import Encoder
from fewsight.backbones.feature_cache import FeatureCache
from fewsight.backbones.features import Request
from fewsight.backbones.loading import load_backbone
from fewsight.backbones.stored_features import StoredFeatures, store_features
from fewsight.data.collection import Collection
from fewsight.data.fingerprint import fingerprint
from fewsight.data.label_maps import LabelMaps
from fewsight.devices import resolve_device
from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Interval
from fewsight.evaluation.scaling import fit_sigmoid
from fewsight.heads.correlation_head import CorrelationHead
from fewsight.objectives.cst import CST, JudgedPairs
from fewsight.objectives.mask_enhancement import MaskEnhancement
from fewsight.objectives.objective import Objective
from fewsight.progress import say
from fewsight.seeding import numpy_generator, stream_seed
from fewsight.trained_heads import write_cst
from fewsight.training.best import BestWeights
from fewsight.training.loop import TrainingResult, train
from fewsight.training.pair_source import PairSource
from fewsight.training.settings import TrainingSettings
from fewsight.workflows.dense_photos import Sides, TrainingPhotos, sides_of, training_photos
from fewsight.workflows.dense_recipe import SMALL, DenseRecipe, Supervision, is_dense
from fewsight.workflows.recipes import as_values, read_recipe, recorded_options
from fewsight.workflows.run_record import RunRecord, record_run
from fewsight.workflows.training_run import training_run

__all__ = [
    "DENSE_REQUEST",
    "SMALL",
    "DenseRecipe",
    "DenseRun",
    "Sides",
    "Supervision",
    "is_dense",
    "metatrain_dense",
    "sides_of",
]

DENSE_REQUEST = Request(blocks="all", attention=True, keys=True, class_query=True)
"""What stored features hold: all that any dense head reads."""

STEEPEST = 20.0  # slope of a calibration that is believed
CENTRED_ON = 64  # training photos whose mean patch centres the tokens


@dataclass(frozen=True)
class DenseRun:
    """What a run gave.

    Attributes:
        folder: with `model/` (the head), `metrics.jsonl` and `run.yaml`.
        result: of the loop.
        validation: half the exact ratio plus half the mIoU on pairs of held-out classes, of the kept weights.
        best_step: at which they were kept.
        remarks: sentences that a person should read.
    """

    folder: Path
    result: TrainingResult
    validation: Interval | None
    best_step: int
    remarks: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        found = self.validation
        return {
            "folder": str(self.folder),
            "steps": self.result.steps,
            "finished": self.result.finished,
            "best_step": self.best_step,
            "validation": None if found is None else vars(found),
            "waiting_for_data": round(self.result.waiting, 4),
            "remarks": list(self.remarks),
        }

    def sentences(self) -> Iterator[str]:
        """In words."""
        yield from self.remarks
        if not self.result.finished:
            yield f"Interrupted at step {self.result.steps}. Go on with the same command and --resume."
            return
        yield f"Trained for {self.result.steps} steps; {100 * self.result.waiting:.0f} % of the time waiting for data."
        if self.validation is not None:
            yield (
                f"Held-out classes, weights of step {self.best_step}: {self.validation.percent()} "
                "(half the exact ratio, half the mIoU)."
            )
        yield f"Use it: fewsight segment LABELLED PHOTOS --head {self.folder / 'model'} --out RUN"


def metatrain_dense(
    data: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    backbone: str | None = None,
    supervision: Supervision | None = None,
    workers: int | None = None,
    device: str = "auto",
    seed: int | None = None,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> DenseRun:
    """Train a CST head on pairs of photos.

    Args:
        data: class folders or a CSV, with masks beside the photos or without.
        out: the run's folder; `model/` in it is what `--head` of `segment` and `evaluate` takes.
        recipe: a packaged recipe or a YAML file; None = defaults.
        overrides: "key=value" settings of the recipe.
        backbone, supervision: in place of the recipe's.

    Raises:
        FewsightError: the data does not allow the supervision, the recipe is wrong, or a loss is not finite.
    """
    chosen = read_recipe(DenseRecipe, recipe, overrides, verb="metatrain")
    options, _ = recorded_options(DenseRecipe, recipe, verb="metatrain")
    seed = int(options.get("seed", 0)) if seed is None else seed
    chosen = replace(
        chosen, backbone=backbone or chosen.backbone, supervision=supervision or chosen.supervision
    )
    with training_run(out, resume=resume, force=force, quiet=quiet) as folder:
        photos = training_photos(data, chosen)
        loaded = squashed(load_backbone(chosen.backbone), chosen.image_size).to(resolve_device(device))
        values = {**as_values(chosen), "backbone": loaded.name, "seed": seed}
        record = RunRecord("metatrain", values, {"data": fingerprint(photos.collection)})
        if distributed.is_main():
            record_run(folder, record, resume=resume)
        with FeatureCache(limit=int(chosen.features_gib * 2**30)) as cache:
            return _Run(chosen, folder, seed, loaded, photos).run(cache, workers)


def squashed(backbone: Backbone, side: int) -> Backbone:
    """The backbone with a transform that shows it all of a photo at `side` pixels."""
    backbone.transform = replace(backbone.transform, size=(side, side), mode="squash", crop_fraction=1.0)
    return backbone


@dataclass
class _Run:
    """One run, step by step."""

    recipe: DenseRecipe
    folder: Path
    seed: int
    backbone: Backbone
    given: TrainingPhotos

    def run(self, cache: FeatureCache, workers: int | None) -> DenseRun:
        torch.manual_seed(stream_seed(self.seed, "weights") >> 1)
        head = self._head()
        objective = CST(
            self.backbone, head, class_weight=self.recipe.class_weight,
            foreground_weight=self.recipe.foreground_weight,
        )  # fmt: skip
        # One request for every supervision, so that all runs on a folder share what is stored.
        encoder = Encoder(self.backbone, DENSE_REQUEST, precision="fp32")
        photos = _encoded_once(encoder, self.given.collection, cache, workers)
        remarks = [
            *self.given.remarks,
            *(f"{file} is left out: {note}." for file, note in photos.left_out[:5]),
        ]
        side = self.recipe.target_size or self.recipe.image_size
        maps = LabelMaps(photos.collection, photos.sizes, side, self.given.read)
        listed = replace(self.recipe, fold=None) if self.given.read is not None else self.recipe
        sides = sides_of(photos.collection, listed, self.seed)
        masked = self._masked(maps, len(photos), sides)
        remarks.append(self._told(masked, sides))
        for remark in remarks:
            say(remark)
        if head.centred_width:
            some = sides.train_rows[
                numpy.linspace(0, len(sides.train_rows) - 1, CENTRED_ON).round().astype(int)
            ]
            head.centre_on(photos.rows(some))
        source = self._source(photos, maps, masked, sides.train, sides.train_rows, "training pairs")
        if head.enhancer is not None and not self._enhanced(head, source):
            return DenseRun(self.folder, TrainingResult(0, False, {}, 0.0, 0.0), None, -1, tuple(remarks))
        validation = None
        if len(sides.val) >= 2:
            validation = self._source(photos, maps, masked, sides.val, sides.val_rows, "validation pairs")
        best = BestWeights(self.folder)
        result = self._trained(objective, source, validation, best)
        if not result.finished:
            return DenseRun(self.folder, result, None, -1, tuple(remarks))
        if validation is not None:
            best.restore(objective.head)
            head.calibration = calibrated(objective, validation, self._validation_batches)
        if distributed.is_main():
            self._save(head, photos.collection, sides, masked, best)
        kept = best.interval if validation is not None else None
        return DenseRun(self.folder, result, kept, best.step, tuple(remarks))

    def _head(self) -> CorrelationHead:
        settings = dict(self.recipe.head_settings)
        if self.recipe.supervision == "mixed":
            settings.setdefault("pseudo_masks", "enhanced")
        try:
            return CorrelationHead.for_backbone(self.backbone, **settings)
        except TypeError as error:
            raise InvalidInput(f"head_settings {settings} do not fit the head cst: {error}.") from error

    def _masked(self, maps: LabelMaps, count: int, sides: Sides) -> NDArray[numpy.bool_]:
        """Whose masks may be used, bool [N]."""
        masked = numpy.array([maps.has(row) for row in range(count)])
        supervision = self.recipe.supervision
        if supervision == "image":
            return numpy.zeros(count, dtype=bool)
        rows = numpy.concatenate([sides.train_rows, sides.val_rows])
        lacking = [int(row) for row in rows if not masked[row]]
        if supervision == "pixel" and lacking:
            raise InvalidInput(
                f"{len(lacking)} of {len(rows)} photos have no mask (the first: "
                f"{maps.collection.file(lacking[0])}); pixel supervision needs all. Use --supervision mixed."
            )
        if not masked[rows].any():
            raise InvalidInput(
                f"no photo has a mask; {supervision} supervision needs some. Put them beside the photos as 1_mask.png "
                "or in masks/, or use --supervision image."
            )
        if supervision == "mixed" and self.recipe.mask_share < 1:
            masked &= (
                numpy_generator(self.seed, "masks that may be used").random(count) < self.recipe.mask_share
            )
        return masked

    def _told(self, masked: NDArray[numpy.bool_], sides: Sides) -> str:
        used = int(masked[sides.train_rows].sum())
        return (
            f"{len(sides.train_rows)} photos of {len(sides.train)} classes to learn from, {used} of their masks "
            f"used; {len(sides.val_rows)} photos of {len(sides.val)} classes to choose the weights; "
            f"{len(sides.test)} classes kept back."
        )

    def _source(
        self,
        photos: StoredFeatures,
        maps: LabelMaps,
        masked: NDArray[numpy.bool_],
        classes: tuple[int, ...],
        rows: NDArray[numpy.int64],
        stream: str,
    ) -> PairSource:
        recipe, trains = self.recipe, stream == "training pairs"
        held = recipe.guessed_supports if trains else 0.0
        return PairSource(
            photos, maps, masked, classes, rows, recipe.pairs, self.seed, stream, recipe.draw, held, split=trains
        )  # fmt: skip

    def _enhanced(self, head: CorrelationHead, source: PairSource) -> bool:
        """Train the enhancer on the photos with masks; False where the run was interrupted."""
        assert head.enhancer is not None
        kept = source.rows[source.masked[source.rows]]
        objective = MaskEnhancement(self.backbone, head.enhancer)
        settings = TrainingSettings(
            steps=self.recipe.enhancer_steps, learning_rate=1e-3, schedule="constant", optimiser="adam"
        )
        try:  # not split: its loss is a mean over those of the photos that have a mask
            pairs = replace(
                source, rows=kept, stream="enhancer pairs", guessed_supports=0.0, split=False, _lines={}
            )
        except InvalidInput as error:
            raise InvalidInput(f"too few photos with masks to train the enhancer: {error}") from error
        folder = self.folder / "enhancer"
        folder.mkdir(exist_ok=True)  # every process: the log and the checkpoints are the first one's
        finished = train(objective, pairs, settings, folder, seed=self.seed).finished
        head.enhancer.requires_grad_(False).eval()
        return finished

    @property
    def _validation_batches(self) -> int:
        return -(-self.recipe.validation_pairs // self.recipe.pairs)

    def _trained(
        self, objective: CST, source: PairSource, validation: PairSource | None, best: BestWeights
    ) -> TrainingResult:
        count = self._validation_batches

        def probe(trained: Objective, step: int) -> Mapping[str, float]:
            assert isinstance(trained, CST)
            assert validation is not None
            ratio, miou, score = judge_pairs(trained, validation, count, seed=self.seed)
            best.consider(trained.head, score, step)
            return {"validation_exact_ratio": ratio, "validation_miou": miou, "validation": score.mean}

        return train(
            objective,
            source,
            self.recipe.training,
            self.folder,
            seed=self.seed,
            probe=None if validation is None else probe,
            probe_every=self.recipe.validation_every if validation is not None else 0,
        )

    def _save(
        self,
        head: CorrelationHead,
        collection: Collection,
        sides: Sides,
        masked: NDArray[numpy.bool_],
        best: BestWeights,
    ) -> None:
        recipe = self.recipe
        provenance = {
            "trained": "metatrain",
            "supervision": recipe.supervision,
            "step": best.step,
            "validation": None if best.step < 0 else best.score,
            "data": fingerprint(collection),
            "masks": int(masked[sides.train_rows].sum()),
            "photos": len(sides.train_rows),
            "fold": None if recipe.fold is None else [recipe.fold, recipe.folds],
            "seed": self.seed,
            "classes": [collection.classes[k] for k in sides.train],
            "kept_back": [collection.classes[k] for k in sides.test],
        }
        write_cst(self.folder / "model", head, self.backbone, provenance)


def _encoded_once(
    encoder: Encoder, collection: Collection, cache: FeatureCache, workers: int | None
) -> StoredFeatures:
    """Features that the first process encodes and keeps; the others read them."""
    if not distributed.is_main():
        distributed.barrier()
    photos = store_features(encoder, collection, cache, workers=workers)
    if distributed.is_main():
        distributed.barrier()
    return photos


def calibrated(objective: CST, source: PairSource, batches: int) -> tuple[float, float]:
    """Slope and shift that make presence of pairs of held-out classes a probability."""
    objective.eval()
    judged = [objective.judged(source(number)) for number in range(batches)]
    logits = torch.cat([each.logit for each in judged]).double()
    slope, shift = fit_sigmoid(logits, torch.cat([each.present for each in judged]).double())
    # A slope below 0 says that presence was not learnt, a huge one that the pairs were too few to be mixed.
    return (slope, shift) if 0 < slope < STEEPEST else (1.0, 0.0)


def judge_pairs(
    objective: CST, source: PairSource, batches: int, *, seed: int, resamples: int = 500
) -> tuple[float, float, Interval]:
    """Exact ratio, mIoU over the classes, and their mean with its interval (bootstrap over pairs).

    Targets are what the pairs are supervised by: masks, or pseudo-masks where masks may not be used.
    """
    objective.eval()
    judged = [objective.judged(source(number)) for number in range(batches)]
    objective.train()
    found = JudgedPairs(*(torch.cat(parts) for parts in zip(*judged, strict=True)))
    wanted = torch.tensor([pair.wanted for number in range(batches) for pair in source.drawn(number)])
    _, row = wanted.unique(return_inverse=True)
    classes, count = int(row.max()) + 1, len(row)
    areas = torch.zeros(2, count, classes, dtype=torch.float64)
    areas[0, torch.arange(count), row] = found.intersection.double()
    areas[1, torch.arange(count), row] = found.union.double()
    draws = numpy_generator(seed, "validation resamples").multinomial(
        count, [1 / count] * count, size=resamples
    )
    times = torch.from_numpy(numpy.concatenate([numpy.ones((1, count)), draws])).double()
    summed = times @ areas  # [2, 1 + R, classes]
    miou = (summed[0] / summed[1].clamp(min=1)).mean(1)
    ratio = (times @ found.right.double()) / times.sum(1)
    score = (miou + ratio) / 2
    low, high = score[1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(ratio[0]), float(miou[0]), Interval(float(score[0]), low, high, count)
