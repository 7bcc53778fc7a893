"""From photos to rows: what a fitted classifier says of each, in order, whatever befell the photo."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fewsight.backbones.encode import EncodedBatch
from fewsight.backbones.features import Features
from fewsight.classifier import FewShotClassifier
from fewsight.data.collection import Collection
from fewsight.data.loading import Outcome
from fewsight.evaluation.from_support import LabelThresholds
from fewsight.predictions import Prediction, SupportMatch
from fewsight.workflows.known_photos import KnownPhotos
from fewsight.workflows.labelled_photos import LabelledPhotos

__all__ = ["Judge"]

NEAREST = 3  # support photos in a row
SEVERAL_LEAST = 0.5  # probability from which a label of a several-label photo counts


class Judge:
    """A classifier with everything that a row needs.

    Args:
        classifier: fitted.
        photos: its support, for duplicates; None where a model folder is all there is.
        coverage: also give label sets.
        looked_at: whether the photos of the pile can be opened, to tell a picture that was saved again.
    """

    def __init__(
        self,
        classifier: FewShotClassifier,
        photos: LabelledPhotos | None,
        coverage: float | None,
        *,
        looked_at: bool = True,
    ) -> None:
        self.classifier = classifier
        self.names = tuple(str(label) for label in classifier.classes_.tolist())
        self.known = (
            None
            if photos is None
            else KnownPhotos(photos.collection, classifier.support_vectors(), looked_at=looked_at)
        )
        self.misfit: LabelThresholds | None = None if coverage is None else classifier.trust_.misfit(coverage)

    def rows(self, collection: Collection, batches: Iterable[EncodedBatch]) -> Iterator[Prediction]:
        """One row for each photo of the collection, in its order; `batches` are all of them with their features."""
        for batch in batches:
            yield from self._batch(batch, collection)

    def _batch(self, batch: EncodedBatch, collection: Collection) -> Iterator[Prediction]:
        answers = iter(self._answers(batch.features) if len(batch.indices) else [])
        vectors = self.classifier.query_vectors(batch.features) if len(batch.indices) else torch.empty(0, 0)
        place = 0
        for outcome in batch.outcomes:
            file = collection.file(outcome.index)
            if not outcome.decoded:
                yield Prediction(
                    file, "refused" if outcome.status == "refused" else "unreadable", outcome.note
                )
                continue
            row = replace(next(answers), file=file, note=outcome.note)
            yield self._marked(row, outcome, collection, vectors[place])
            place += 1

    def _answers(self, features: Features) -> list[Prediction]:
        scores = self.classifier.scores(features)
        probabilities = self.classifier.trust_.probabilities(scores)
        novelty = torch.from_numpy(self.classifier.novelty(features))
        rejected = self.classifier.rejected(features)
        similarity = self.classifier.query_vectors(features) @ self.classifier.support_vectors().T  # [B, S]
        order = scores.argsort(dim=1, descending=True, stable=True)
        return [
            self._answer(
                probabilities[row], order[row], float(novelty[row]), bool(rejected[row]), similarity[row]
            )
            for row in range(len(scores))
        ]

    def _answer(
        self, shares: Tensor, order: Tensor, novelty: float, rejected: bool, similarity: Tensor
    ) -> Prediction:
        best = int(order[0])
        second = int(order[1]) if len(order) > 1 else None
        several = self.classifier.several_
        labels = (
            tuple(n for n, p in zip(self.names, shares.tolist(), strict=True) if p >= SEVERAL_LEAST)
            if several
            else ()
        )
        return Prediction(
            file="",
            status="rejected" if rejected else "ok",
            label=self.names[best],
            score=float(shares[best]),
            runner_up=None if second is None else self.names[second],
            runner_up_score=None if second is None else float(shares[second]),
            novelty=novelty,
            probabilities=dict(zip(self.names, shares.tolist(), strict=True)),
            labels=labels,
            label_set=self._label_set(shares),
            nearest=self._nearest(similarity, best),
        )

    def _label_set(self, shares: Tensor) -> tuple[str, ...] | None:
        if self.misfit is None:
            return None
        inside = ((1 - shares.double() <= self.misfit.value) | (shares == shares.max())).tolist()
        return tuple(name for name, held in zip(self.names, inside, strict=True) if held)

    def _nearest(self, similarity: Tensor, best: int) -> tuple[SupportMatch, ...]:
        """The nearest support photos of any class, and their own class (the answer's where they have it)."""
        values, rows = similarity.topk(min(NEAREST, len(similarity)))
        membership = self.classifier.support_.membership
        matches = []
        for value, row in zip(values.tolist(), rows.tolist(), strict=True):
            column = best if membership[row, best] else int(membership[row].nonzero()[0, 0])
            matches.append(SupportMatch(self.classifier.files_[row], self.names[column], value))
        return tuple(matches)

    def _marked(
        self, row: Prediction, outcome: Outcome, collection: Collection, vector: Tensor
    ) -> Prediction:
        same = (
            None
            if self.known is None
            else self.known.same_as(collection.path(outcome.index), outcome.digest, vector)
        )
        if same is not None:
            return replace(row, status="duplicate", note=_joined(same, row.note))
        if outcome.status == "suspicious" and row.status == "ok":
            return replace(row, status="suspicious")
        if row.status == "rejected":
            return replace(row, note=_joined(f"none of these; nearest is {row.label}", row.note))
        return row


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
