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
        self.names = classifier.class_names
        self.support, self.membership = classifier.support_vectors(), classifier.support_.membership
        self.home = self.membership.long().argmax(1)  # the first class of each support photo, [S]
        self.known = None if photos is None else KnownPhotos(photos.collection, looked_at=looked_at)
        self.misfit: LabelThresholds | None = None if coverage is None else classifier.trust_.misfit(coverage)

    def rows(self, collection: Collection, batches: Iterable[EncodedBatch]) -> Iterator[Prediction]:
        """One row for each photo of the collection, in its order; `batches` are all of them with their features."""
        for batch in batches:
            yield from self._batch(batch, collection)

    def _batch(self, batch: EncodedBatch, collection: Collection) -> Iterator[Prediction]:
        answers = self._answers(batch.features) if len(batch.indices) else iter(())
        for outcome in batch.outcomes:
            file = collection.file(outcome.index)
            if not outcome.decoded:
                yield Prediction(
                    file, "refused" if outcome.status == "refused" else "unreadable", outcome.note
                )
                continue
            answer, likeness, row = next(answers)
            answer = replace(answer, file=file, note=outcome.note)
            yield self._marked(answer, outcome, collection, likeness, row)

    def _answers(self, features: Features) -> Iterator[tuple[Prediction, float, int]]:
        """The answer to each photo, with the likeness and row of the support photo that is most like it."""
        scores = self.classifier.scores(features)
        probabilities = self.classifier.trust_.probabilities(scores)
        novelty = self.classifier.novelty(features)
        rejected = self.classifier.above_rejection(novelty)
        best = scores.argsort(dim=1, descending=True, stable=True)[:, :2]
        similarity = self.classifier.query_vectors(features) @ self.support.T  # [B, S]
        values, rows = similarity.topk(min(NEAREST, similarity.shape[1]), dim=1)
        sets = None if self.misfit is None else self._label_sets(probabilities)
        nearest = self._nearest(values, rows, best[:, :1])
        columns = zip(
            best.tolist(),
            probabilities.tolist(),
            novelty.tolist(),
            rejected.tolist(),
            nearest,
            [None] * len(scores) if sets is None else sets,
            strict=True,
        )
        for row, likeness, place in zip(columns, values[:, 0].tolist(), rows[:, 0].tolist(), strict=True):
            yield self._answer(*row), likeness, place

    def _answer(
        self,
        best: list[int],
        shares: list[float],
        novelty: float,
        rejected: bool,
        nearest: tuple[SupportMatch, ...],
        label_set: tuple[str, ...] | None,
    ) -> Prediction:
        first, second = best[0], best[1] if len(best) > 1 else None
        several = self.classifier.several_
        named = zip(self.names, shares, strict=True)
        return Prediction(
            file="",
            status="rejected" if rejected else "ok",
            label=self.names[first],
            score=shares[first],
            runner_up=None if second is None else self.names[second],
            runner_up_score=None if second is None else shares[second],
            novelty=novelty,
            probabilities=dict(zip(self.names, shares, strict=True)),
            labels=tuple(name for name, share in named if share >= SEVERAL_LEAST) if several else (),
            label_set=label_set,
            nearest=nearest,
        )

    def _label_sets(self, probabilities: Tensor) -> list[tuple[str, ...]]:
        assert self.misfit is not None
        inside = self.classifier.trust_.inside(probabilities, self.misfit)
        return [
            tuple(name for name, held in zip(self.names, row, strict=True) if held) for row in inside.tolist()
        ]

    def _nearest(self, values: Tensor, rows: Tensor, best: Tensor) -> Iterator[tuple[SupportMatch, ...]]:
        """The nearest support photos of any class, and their own class (the answer's where they have it).

        Args:
            values, rows: their likeness and place in the support, `[B, n]`.
            best: column of the answer, `[B, 1]`.
        """
        columns = torch.where(self.membership[rows, best], best, self.home[rows])
        files = self.classifier.files_
        for near in zip(rows.tolist(), columns.tolist(), values.tolist(), strict=True):
            yield tuple(
                SupportMatch(files[row], self.names[k], value) for row, k, value in zip(*near, strict=True)
            )

    def _marked(
        self, row: Prediction, outcome: Outcome, collection: Collection, likeness: float, nearest: int
    ) -> Prediction:
        same = (
            None
            if self.known is None
            else self.known.same_as(collection.path(outcome.index), outcome.digest, likeness, nearest)
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
