"""The report of a run of `predict`: the most doubtful photos are looked at again, with their features and reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy

from fewsight.backbones.features import Features
from fewsight.classifier import FewShotClassifier
from fewsight.data.decode import decode
from fewsight.errors import UnreadableImage
from fewsight.evaluation.intervals import Interval
from fewsight.predictions import Prediction, Predictions
from fewsight.report.facts import Estimate, Licence, RunFacts, SupportPhoto
from fewsight.report.predictions import MOST_SHOWN, MapFeatures, write_predictions_report
from fewsight.report.tally import Tally
from fewsight.workflows.classifier_for import backbone_name
from fewsight.workflows.labelled_photos import LabelledPhotos
from fewsight.workflows.pile import Pile
from fewsight.workflows.prediction_result import PredictionRun

__all__ = ["report_predictions"]

THUMBNAIL = 256  # pixels that a picture is decoded to at least


def report_predictions(
    run: PredictionRun,
    classifier: FewShotClassifier,
    photos: LabelledPhotos | None,
    pile: Pile,
    settings: Any,
    support: Path,
    queries: Path,
    tally: Tally,
) -> None:
    """Write `report.html` of a finished run."""
    chosen = tally.doubts.first(MOST_SHOWN)
    features = _Features(classifier, pile)
    vectors = features[chosen]
    rows = _Explained(run.rows, classifier, features.held)
    collection = pile.collection
    places = {collection.file(index): collection.path(index) for index in chosen}
    names = classifier.class_names
    write_predictions_report(
        run.folder / "report.html",
        Predictions(rows, names),  # type: ignore[arg-type]
        support=_support_photos(classifier, names),
        read_picture=_Pictures(photos, places),
        features=MapFeatures(classifier.support_vectors().numpy(), features) if len(vectors) else None,
        facts=_facts(run, classifier, settings, support, queries),
        tally=tally,
        transform=None if classifier.features_only else classifier.photo_encoder().backbone.transform,
    )


class _Features:
    """Features of some photos of the pile, from the cache where they are: `[indices]` gives their vectors."""

    def __init__(self, classifier: FewShotClassifier, pile: Pile) -> None:
        self.classifier, self.pile = classifier, pile
        self.held: dict[int, Features] = {}
        self.shape = (len(pile.collection), classifier.support_vectors().shape[1])

    def __len__(self) -> int:
        return len(self.pile.collection)

    def __getitem__(self, indices: Any) -> numpy.ndarray:
        wanted = [int(index) for index in numpy.atleast_1d(numpy.asarray(indices, dtype=int))]
        self._encode([index for index in wanted if index not in self.held])
        result = numpy.full((len(wanted), self.shape[1]), numpy.nan, dtype=numpy.float32)
        for row, index in enumerate(wanted):
            if index in self.held:
                result[row] = self.classifier.query_vectors(self.held[index])[0].numpy()
        return result

    def _encode(self, indices: list[int]) -> None:
        if not indices:
            return
        embedded = self.pile.embedded is not None
        encoder = None if embedded else self.classifier.photo_encoder().ready(self.classifier.head_)
        self.held |= self.pile.features_at(indices, encoder)


class _Explained(Sequence[Prediction]):
    """The rows, with reasons for those whose features are at hand."""

    def __init__(
        self, rows: Sequence[Prediction], classifier: FewShotClassifier, features: dict[int, Features]
    ) -> None:
        self.rows, self.classifier, self.features = rows, classifier, features

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.rows)

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        row = self.rows[index]
        if index in self.features and row.label is not None:
            return replace(row, reasons=self.classifier.explain(self.features[index]))
        return row


class _Pictures:
    """Reads the pictures of the report; None where that is no longer possible."""

    def __init__(self, photos: LabelledPhotos | None, queries: dict[str, str]) -> None:
        self.queries = queries
        collection = None if photos is None else photos.collection
        self.support = (
            {}
            if collection is None
            else {collection.file(i): collection.path(i) for i in range(len(collection))}
        )

    def __call__(self, kind: str, file: str) -> Any:
        from PIL import Image

        path = (self.queries if kind == "query" else self.support).get(file)
        try:
            return (
                None if path is None else Image.fromarray(decode(path, needed=(THUMBNAIL, THUMBNAIL)).image)
            )
        except UnreadableImage:
            return None


def _support_photos(classifier: FewShotClassifier, names: tuple[str, ...]) -> list[SupportPhoto]:
    members = classifier.support_.membership
    return [
        SupportPhoto(file, tuple(names[k] for k in members[row].nonzero()[:, 0].tolist()))
        for row, file in enumerate(classifier.files_)
    ]


def _facts(
    run: PredictionRun, classifier: FewShotClassifier, settings: Any, support: Path, queries: Path
) -> RunFacts:
    notes = [run.expected_sentence]
    if classifier.rejection_ is not None:
        notes.append(classifier.rejection_.sentence)
    names = classifier.class_names
    sets = None if settings.coverage is None else classifier.trust_.misfit(settings.coverage, names)
    if sets is not None:
        notes.append(sets.sentence)
    return RunFacts(
        expected=_estimate(run.expected),
        expected_note=run.expected_sentence,
        expected_by_group={
            name: found
            for name, value in classifier.expected_.by_group.items()
            if (found := _estimate(value))
        },
        measured=None if run.accuracy is None else _estimate(run.accuracy),
        coverage=settings.coverage,
        own_threshold=() if sets is None else tuple(names[column] for column in sets.own),
        remarks=(*run.remarks, *classifier.trust_.notes, *notes[1:]),
        correct_command=f"fewsight predict {run.folder / 'predictions.csv'} {queries} --out {run.folder}-corrected",
        command=f"fewsight predict {support} {queries} --out {run.folder}",
        settings={key: value for key, value in vars(settings).items() if value is not None}
        | {"backbone": backbone_name(classifier)},
        licences=(Licence("fewsight", "Apache-2.0", "the program"), _licence(classifier)),
    )


def _licence(classifier: FewShotClassifier) -> Licence:
    name = f"weights of {backbone_name(classifier)}"
    if classifier.features_only:
        return Licence(name, "not known here", "the features were made elsewhere")
    licence = classifier.photo_encoder().backbone.licence
    return Licence(name, licence.name, licence.note)


def _estimate(interval: Interval) -> Estimate | None:
    if interval.n == 0 or interval.low != interval.low:
        return None
    return Estimate(interval.mean, interval.low, interval.high, interval.n)
