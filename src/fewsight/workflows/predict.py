"""`fewsight predict`: a few labelled photos and a pile of others in; rows, a report and a model out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from fewsight import __version__
from fewsight.backbones.encode import Encoder
from fewsight.backbones.feature_cache import FeatureCache
from fewsight.classifier import FewShotClassifier
from fewsight.data.reading import nothing_there
from fewsight.errors import InvalidInput, UnreadableImage
from fewsight.evaluation.intervals import proportion_interval
from fewsight.files import run_folder, sha256
from fewsight.predictions import STATUSES, Prediction
from fewsight.progress import Progress, duration, quieted, say
from fewsight.report.tally import Tally
from fewsight.workflows.classifier_for import (
    PredictSettings,
    backbone_name,
    fitted_classifier,
    loaded_classifier,
    read_support,
)
from fewsight.workflows.judge import Judge
from fewsight.workflows.labelled_photos import LabelledPhotos, is_model_folder
from fewsight.workflows.pile import Pile, read_pile
from fewsight.workflows.prediction_exports import ExportFacts, check_exports, export_rows
from fewsight.workflows.prediction_files import PartFile, StoredPredictions, write_tables
from fewsight.workflows.prediction_report import report_predictions
from fewsight.workflows.prediction_result import PredictionRun
from fewsight.workflows.run_record import RunRecord, record_run
from fewsight.workflows.sort_photos import sort_photos
from fewsight.workflows.truth import Truth, read_truth

__all__ = ["PredictionRun", "predict"]

PART = 512  # photos whose rows are written together; a killed run repeats at most so many


def predict(
    support: str | Path,
    queries: str | Path,
    out: str | Path,
    *,
    backbone: str = "auto",
    head: str = "prototypes",
    reject: float | None = None,
    coverage: float | None = None,
    labels: str | Path | None = None,
    truth: str | Path | None = None,
    sort_into: str | Path | None = None,
    also: Sequence[str] = (),
    image_size: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    group_by: str | None = None,
    class_level: Literal["top", "leaf"] = "top",
    skip_empty: bool = False,
    strict: bool = False,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> PredictionRun:
    """Label the photos in `queries` by the few labelled ones in `support`.

    Args:
        support: class folders, a CSV of labels, a corrected `predictions.csv`, a model folder, or a folder of
            `fewsight embed`.
        queries: a folder, a CSV, one photo, or a folder of `fewsight embed`. Class folders named like the classes give
            the truth.
        out: the run's folder.
        backbone, head, image_size, precision, device, seed: as in `FewShotClassifier`.
        reject: share of photos that do belong to a class which may be answered "none of these".
        coverage: also give label sets that hold the true label with this probability.
        labels: CSV of the labels of a SUPPORT made by `fewsight embed`, whose photos lie in no class folders.
        truth: CSV of the true labels.
        sort_into: folder to link or copy the photos into, by label.
        also: further formats of the rows: `label-studio`, `timelapse`, `parquet`.
        group_by: `folder`, `burst` or a column of the CSV: for the accuracy to expect.
        strict: stop at the first photo that cannot be read.
        resume, force: go on with, or replace, the run in `out`.

    Raises:
        FewsightError: something in the input is wrong; the message says what, where, and what to do.
    """
    settings = PredictSettings(
        backbone, head, reject, coverage, image_size, precision, device, seed, group_by, class_level, skip_empty,
        strict, batch_size, workers,
    )  # fmt: skip
    check_exports(also)
    with quieted(quiet), run_folder(out, resume=resume, force=force) as folder:
        known = None if truth is None else Path(truth)
        named = None if labels is None else Path(labels)
        return _Run(
            Path(support), Path(queries), folder, settings, named, known, sort_into, tuple(also), resume
        ).run()


@dataclass
class _Run:
    """One run, step by step."""

    support: Path
    queries: Path
    folder: Path
    settings: PredictSettings
    labels: Path | None
    truth_file: Path | None
    sort_into: str | Path | None
    also: tuple[str, ...]
    resume: bool
    remarks: list[str] = field(default_factory=list)

    def run(self) -> PredictionRun:
        pile = read_pile(self.queries)
        self.remarks += (*pile.reading.warnings, *nothing_there(pile.reading, self.queries))
        if self.sort_into is not None and not pile.present:
            raise InvalidInput(
                f"--sort-into needs the photos, and {pile.collection.root} is gone: leave it out, or give the photos."
            )
        photos = None
        if not is_model_folder(self.support):
            photos = read_support(self.support, self.labels, pile, self.settings)
            self._tell_support(photos)
        classifier = self._classifier(photos, pile)
        self._record(photos, pile, classifier)
        say(f"Before any query: {classifier.expected_.sentence}")
        if classifier.rejection_ is not None:
            say(classifier.rejection_.sentence)
        if self.settings.coverage is not None:
            say(classifier.trust_.misfit(self.settings.coverage, classifier.class_names).sentence)
        truth = read_truth(
            self.truth_file, pile.reading, tuple(str(name) for name in classifier.classes_.tolist())
        )
        rows = self._rows(classifier, photos, pile, truth)
        return self._finish(classifier, photos, pile, rows)

    def _tell_support(self, photos: LabelledPhotos) -> None:
        say(photos.reading.description)
        self.remarks += photos.reading.warnings
        for file, note in photos.unreadable:
            self.remarks.append(f"Labelled photo {file} is left out: {note}.")
        for remark in self.remarks:
            say(remark)

    def _classifier(self, photos: LabelledPhotos | None, pile: Pile) -> FewShotClassifier:
        if photos is None:
            return loaded_classifier(self.support, pile, self.settings)
        classifier = fitted_classifier(photos, pile, self.settings)
        if classifier.features_only:
            self.remarks.append(
                f"{self.folder / 'model'} takes features alone: their backbone is not on this machine."
            )
            say(self.remarks[-1])
        classifier.save(self.folder / "model")
        return classifier

    def _record(self, photos: LabelledPhotos | None, pile: Pile, classifier: FewShotClassifier) -> None:
        chosen = {key: value for key, value in vars(self.settings).items() if key != "workers"}
        chosen["backbone"] = backbone_name(classifier)
        chosen |= {"support": str(self.support), "queries": str(self.queries)}
        if self.labels is not None:
            chosen["labels"] = str(self.labels)
        data = {
            "support": photos.fingerprint if photos else sha256(self.support / "model.json")[:16],
            "queries": pile.fingerprint(),
        }
        record_run(self.folder, RunRecord("predict", chosen, data), resume=self.resume)

    def _rows(
        self, classifier: FewShotClassifier, photos: LabelledPhotos | None, pile: Pile, truth: Truth
    ) -> StoredPredictions:
        finished = self.folder / "predictions.jsonl"
        if finished.exists():
            say("The run is finished already; making its report again.")
            return StoredPredictions(finished)
        collection, s = pile.collection, self.settings
        sizes = [min(PART, len(collection) - first) for first in range(0, len(collection), PART)]
        part = PartFile(self.folder, sizes)
        started, before = time.monotonic(), sum(sizes[: part.finished])
        judge = Judge(classifier, photos, s.coverage, looked_at=pile.present)
        encoder = _encoder(classifier, pile)
        with FeatureCache() as cache, Progress("predicting", len(collection), done=before) as bar:
            for number in range(part.finished, len(sizes)):
                first = number * PART
                places = range(first, first + sizes[number])
                batches = pile.encoded(
                    places, encoder, cache=cache, batch_size=s.batch_size, workers=s.workers
                )
                rows = list(judge.rows(collection.select(places), batches))
                if self.settings.strict:
                    _stop_at_unreadable(rows)
                part.append(truth.attach(row, first + place) for place, row in enumerate(rows))
                bar.advance(len(rows))
                if number == part.finished:
                    self._tell_cost(
                        len(collection) - first - len(rows), len(rows), time.monotonic() - started
                    )
        if not sizes:
            part.append([])
        write_tables(self.folder)
        return StoredPredictions(finished)

    def _tell_cost(self, left: int, done: int, seconds: float) -> None:
        if left:
            size = (
                (self.folder / "predictions.part.jsonl").stat().st_size / max(done, 1) * (left + done) * 1.5
            )
            mebibytes = max(1, round(size / 2**20))
            say(f"{left} photos to go: about {duration(seconds / done * left)}, and {mebibytes} MiB of rows.")

    def _export(self, classifier: FewShotClassifier, pile: Pile, rows: StoredPredictions) -> None:
        model = self.support if is_model_folder(self.support) else self.folder / "model"
        facts = ExportFacts(classifier.class_names, _version(classifier, model), Path(pile.collection.root))
        for name in self.also:
            for path in export_rows(name, rows, facts, self.folder):
                say(f"Also written: {path}")

    def _finish(
        self,
        classifier: FewShotClassifier,
        photos: LabelledPhotos | None,
        pile: Pile,
        rows: StoredPredictions,
    ) -> PredictionRun:
        tally = Tally.of(rows)
        counts: dict[str, int] = {status: tally.statuses[status] for status in STATUSES}
        accuracy = proportion_interval(tally.right, tally.known) if tally.known else None
        result = PredictionRun(
            self.folder, rows, counts, classifier.expected_.overall, classifier.expected_.sentence, accuracy,
            tuple(self.remarks),
        )  # fmt: skip
        report_predictions(result, classifier, photos, pile, self.settings, self.support, self.queries, tally)
        self._export(classifier, pile, rows)
        if self.sort_into is not None:
            result = replace(
                result, remarks=(*result.remarks, sort_photos(rows, pile.collection, Path(self.sort_into)))
            )
        return result


def _version(classifier: FewShotClassifier, folder: Path) -> str:
    """What a labelling tool keeps the answers under: the program, the backbone, and the model by its content."""
    model = folder / "model.json"
    mark = f" {sha256(model)[:8]}" if model.is_file() else ""
    return f"fewsight {__version__} {backbone_name(classifier)}{mark}"


def _encoder(classifier: FewShotClassifier, pile: Pile) -> Encoder | None:
    return None if pile.embedded is not None else classifier.photo_encoder().ready(classifier.head_)


def _stop_at_unreadable(rows: list[Prediction]) -> None:
    for row in rows:
        if row.status in ("unreadable", "refused"):
            raise UnreadableImage(f"{row.file}: {row.note} (--strict stops here)", status=row.status)
