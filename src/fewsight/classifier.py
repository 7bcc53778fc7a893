"""`FewShotClassifier`: a few labelled photos in, labels, calibrated scores and "none of these" out.

An estimator of scikit-learn (clone, pipeline, cross_val_score) whose X may be paths, Pillow images, uint8 photos
[N, H, W, 3], or features [N, D] that were made before. Photos go through a backbone once; a head compares them; what
the scores are worth is learnt from the support alone (`evaluation.from_support`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fewsight.backbones.features import Features, concatenate, pool
from fewsight.class_labels import class_array, label_sets, membership
from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.evaluation.from_support import (
    Threshold,
    balanced_scores,
    expected_accuracy,
    fit_trust,
    left_out_scores,
)
from fewsight.heads.head import Head, Support
from fewsight.heads.prototypes import Prototypes
from fewsight.heads.vectors import ConditionedVectors, VectorHead, unit
from fewsight.model import read_model, write_model
from fewsight.names import choices, resolve
from fewsight.photo_input import PhotoEncoder, as_features, checked_labels, file_names, is_photos
from fewsight.predictions import Explanation
from fewsight.reasons import explanation
from fewsight.trained_head import make_head

__all__ = ["FewShotClassifier"]

ROWS = 2**16  # rows that are scored at once


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classify photos by a few labelled ones.

    Args:
        backbone: a name for `load_backbone`, a path, or a `Backbone`; unused where X holds features.
        head: `prototypes`, `neighbours`, `matching`, `logistic`, `crosstransformer`, or a `Head`.
        reject: answer "none of these" (`rejected`) for at most this share of photos that do belong to a class.
        image_size: side in pixels that photos are brought to; None takes the backbone's.
        device: `auto`, `cpu`, `cuda`, ...
        precision: `auto`, `fp32`, `fp16`, `bf16`.
        seed: of everything random; no head of today draws.

    Attributes:
        classes_: the K labels, sorted.
        trust_: temperature and thresholds, learnt from the support.
        expected_: accuracy of the support photos, each judged by the others.
        support_: features and membership of the S support photos; `files_` are their names.

    >>> import numpy
    >>> features = numpy.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.1]])
    >>> FewShotClassifier().fit(features, ["up", "up", "right", "right"]).predict([[0.2, 2.0]]).tolist()
    ['up']
    """

    def __init__(
        self,
        backbone: Any = "auto",
        head: Any = "prototypes",
        *,
        reject: float | None = None,
        image_size: int | tuple[int, int] | None = None,
        device: str = "auto",
        precision: str = "auto",
        seed: int = 0,
    ) -> None:
        self.backbone = backbone
        self.head = head
        self.reject = reject
        self.image_size = image_size
        self.device = device
        self.precision = precision
        self.seed = seed

    def fit(
        self, X: Any, y: Any, *, groups: Sequence[Hashable] | None = None, files: Sequence[str] | None = None
    ) -> FewShotClassifier:
        """Read the labelled photos.

        Args:
            X: paths, Pillow images, uint8 `[N, H, W, 3]`, features float `[N, D]`, or `Features` of the backbone.
            y: a label a photo, of any hashable type; a list or set where a photo has several.
            groups: a name a photo (folder, burst); a group never judges itself.
            files: a name a photo for explanations; paths name themselves.

        Raises:
            InvalidInput: lengths differ, a label or a setting is wrong, or features are not finite.
            UnreadableImage: a support photo cannot be decoded.
        """
        self._check_settings()
        photos = is_photos(X) or isinstance(X, Features)
        encoder = (
            PhotoEncoder(self.backbone, self.image_size, self.device, self.precision) if photos else None
        )
        head = self._made_head(encoder)
        if encoder is None:
            features = as_features(X, self, reset=True)
        else:
            features = X if isinstance(X, Features) else encoder.features(X, head)
        labels, self.several_ = label_sets(checked_labels(y, features.num_images))
        self._encoder, self.head_ = encoder, head
        self.features_of_: dict[str, Any] | None = None  # what made the features, where that is known
        self.files_ = file_names(X, files, features.num_images)
        self.groups_ = None if groups is None else [str(group) for group in groups]
        self._condition(features, labels)
        return self

    def _check_settings(self) -> None:
        if self.reject is not None and not 0 < self.reject < 1:
            raise InvalidInput(f"reject is {self.reject}; expected a share in (0, 1), such as 0.05, or None.")

    def _made_head(self, encoder: PhotoEncoder | None) -> Head:
        if isinstance(self.head, Head):
            return copy.deepcopy(self.head)
        if not isinstance(self.head, str):
            raise InvalidInput(
                f"head is {self.head!r}; expected a Head or one of: {', '.join(choices('heads'))}."
            )
        made = resolve("heads", self.head)
        if encoder is None and not issubclass(made, VectorHead):
            raise InvalidInput(
                f"head {self.head!r} compares patches, which features [N, D] have not: give photos."
            )
        if encoder is None:
            return make_head(self.head, None, "cls")
        return make_head(self.head, self.backbone, encoder.backbone.pooling)

    def _condition(self, features: Features, labels: list[tuple[Hashable, ...]]) -> None:
        """Everything that is learnt, from features and labels of all supports."""
        if isinstance(self.head_, VectorHead):
            features = Features(cls=self.head_.vectors(features))
        self.labels_ = labels
        self.classes_ = class_array(label for row in labels for label in row)
        names = tuple(str(label) for label in self.classes_.tolist())
        self.support_ = Support(features, membership(labels, self.classes_), names)
        self.conditioned_ = self.head_.condition(self.support_)
        self._condition_novelty()
        scores = balanced_scores(self.head_, self.support_, self.groups_)
        vectors = Support(Features(cls=self._vectors(features)), self.support_.membership, names)
        novelty = -left_out_scores(self.novelty_.head, vectors, self.groups_).amax(1)
        own = self.conditioned_.scores(features)
        exponent = getattr(self.head_, "temperature_exponent", 1 / 3)
        self.trust_ = fit_trust(
            scores, novelty, self.support_.membership, own, several=self.several_, exponent=exponent
        )
        self.expected_ = expected_accuracy(scores, self.support_.membership, self.groups_)
        self._set_rejection()

    def _condition_novelty(self) -> None:
        vectors = self._vectors(self.support_.features)
        self.novelty_: ConditionedVectors = Prototypes().condition(
            Support(Features(cls=vectors), self.support_.membership, self.support_.names)
        )

    def _set_rejection(self) -> None:
        self.rejection_: Threshold | None = (
            None if self.reject is None else self.trust_.rejection(self.reject)
        )

    def _vectors(self, features: Features) -> Tensor:
        encoder = self._encoder
        return pool(features, encoder.backbone.pooling if encoder and features.patches is not None else "cls")

    def features(self, X: Any) -> Features:
        """Photos or features as `Features`; every method takes these, so that photos are encoded once.

        Raises:
            InvalidInput: the classifier was fitted on features and X holds photos, or widths differ.
        """
        check_is_fitted(self, "classes_")
        if isinstance(X, Features):
            return X
        if self._encoder is not None and hasattr(X, "__len__") and not len(X):
            return self._encoder.features([], self.head_)
        if not is_photos(X):
            return as_features(X, self)
        if self._encoder is None:
            raise InvalidInput(
                "X holds photos, but the classifier was fitted on features: give features [N, D]."
            )
        return self._encoder.features(X, self.head_)

    def scores(self, X: Any) -> Tensor:
        """Scores of the head, `[N, K]`, larger = more alike, before calibration."""
        features = self.features(X)
        return _by_rows(self.conditioned_.scores, features, len(self.classes_))

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Scores `[N, K]`; with two classes the second minus the first, `[N]`, as in scikit-learn."""
        scores = self.scores(X).numpy()
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 and not self.several_ else scores

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Calibrated probabilities `[N, K]`; rows sum to 1 unless photos can have several labels."""
        scores = self.scores(X)
        return self.trust_.probabilities(scores).numpy()

    def predict(self, X: Any) -> NDArray[Any]:
        """A label for each photo, always one of `classes_`.

        Where the support had several labels a photo: a list for each photo, of every label that is more likely
        than not, the best one in any case.
        """
        scores = self.scores(X)
        best = scores.argmax(1) if len(scores) else torch.zeros(0, dtype=torch.long)
        if not self.several_:
            return self.classes_[best.numpy()]
        chosen = self.trust_.probabilities(scores) >= 0.5
        chosen[torch.arange(len(best)), best] = True
        answers = numpy.empty(len(best), dtype=object)
        for row, columns in enumerate(chosen):
            answers[row] = self.classes_[columns.numpy()].tolist()
        return answers

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of photos answered right; with several labels, of photos whose labels are all right and no more."""
        if not self.several_:
            return float(super().score(X, y, sample_weight))
        truth = [set(row) for row in label_sets(y)[0]]
        right = [set(answer) == row for answer, row in zip(self.predict(X), truth, strict=True)]
        return float(numpy.average(right, weights=sample_weight))

    def novelty(self, X: Any) -> NDArray[Any]:
        """How little a photo is like anything in the support, `[N]`: minus its largest similarity to a class."""
        features = self.features(X)
        vectors = Features(cls=self._vectors(features))
        return -_by_rows(self.novelty_.scores, vectors, len(self.classes_)).amax(1).numpy()

    def rejected(self, X: Any) -> NDArray[numpy.bool_]:
        """Whether the answer is "none of these", `[N]`; never where `reject` is None or the support too small."""
        return self.above_rejection(self.novelty(X))

    def above_rejection(self, novelty: NDArray[Any]) -> NDArray[numpy.bool_]:
        """`rejected` from novelties that are at hand, `[N]`."""
        return novelty > (self.rejection_.value if self.rejection_ else numpy.inf)

    def predict_set(self, X: Any, coverage: float) -> NDArray[numpy.bool_]:
        """For each photo the labels that can be meant, `[N, K]`: the true one is among them with `coverage`.

        The answer of `predict` is always among them. Every set is full where the support is too small;
        `trust_.misfit(coverage).sentence` says so.

        Raises:
            InvalidInput: coverage is out of range.
        """
        scores = self.scores(X)
        return self.trust_.label_sets(self.trust_.probabilities(scores), coverage).numpy()

    def explain(self, x: Any, label: Hashable | None = None) -> Explanation:
        """Why one photo got its label: the support photos of that class that are nearest to it.

        Args:
            x: one photo, or the features of one, `[D]`.
            label: which class to speak for; None for the answer.

        Raises:
            InvalidInput: the label is not among the classes.
        """
        one = [x] if is_photos([x]) else x if isinstance(x, Features) else numpy.asarray(x)[None]
        features = self.features(one)
        scores = self.scores(features)[0]
        classes = self.classes_.tolist()
        if label is not None and label not in classes:
            raise InvalidInput(f"label is {label!r}, which is not among the {len(classes)} classes.")
        column = int(scores.argmax()) if label is None else classes.index(label)
        similarity = (self.query_vectors(features) @ self.support_vectors().T)[0]
        return explanation(
            column, scores, similarity, self.support_, self.files_, self.conditioned_, features
        )

    def photo_encoder(self) -> PhotoEncoder:
        """The backbone behind this classifier.

        Raises:
            InvalidInput: it was fitted on features.
        """
        check_is_fitted(self, "classes_")
        if self._encoder is None:
            raise InvalidInput("the classifier was fitted on features, so it has no backbone for photos.")
        return self._encoder

    @property
    def features_only(self) -> bool:
        """Whether it was fitted on features, and has no backbone for photos."""
        check_is_fitted(self, "classes_")
        return self._encoder is None

    @property
    def class_names(self) -> tuple[str, ...]:
        """`classes_` as text."""
        return tuple(str(label) for label in self.classes_.tolist())

    def support_vectors(self) -> Tensor:
        """One vector a support photo at unit length, `[S, D]`."""
        return unit(self._vectors(self.support_.features))

    def query_vectors(self, features: Features) -> Tensor:
        """One vector a photo at unit length, `[B, D]`; with `support_vectors`, cosines are products."""
        return unit(self._vectors(features))

    def set_reject(self, reject: float | None) -> FewShotClassifier:
        """Change the false-alarm rate of "none of these" without fitting again.

        Raises:
            InvalidInput: the rate is out of range.
        """
        self.reject = reject
        self._check_settings()
        self._set_rejection()
        return self

    def add_class(self, name: Hashable, X: Any, *, files: Sequence[str] | None = None) -> FewShotClassifier:
        """One more class, from its photos alone; the result is that of fitting on all photos.

        Raises:
            InvalidInput: there is such a class already, or no photo.
        """
        check_is_fitted(self, "classes_")
        if name in self.classes_.tolist():
            raise InvalidInput(f"there is a class {name!r} already; remove it first, or choose another name.")
        features = self.features(X)
        if not features.num_images:
            raise InvalidInput(f"class {name!r} has no photo; give at least one.")
        if isinstance(self.head_, VectorHead):
            features = Features(cls=self.head_.vectors(features).to(self._vectors(self.support_.features)))
        added = file_names(X, files, features.num_images, start=len(self.files_))
        self.files_ = [*self.files_, *added]
        if self.groups_ is not None:
            self.groups_ = [*self.groups_, *(f"{name}: {file}" for file in added)]
        labels = [*self.labels_, *[(name,)] * features.num_images]
        self._condition(concatenate([self.support_.features, features]), labels)
        return self

    def remove_class(self, name: Hashable) -> FewShotClassifier:
        """The same without one class, and without the photos that belonged to it alone.

        Raises:
            InvalidInput: there is no such class, or it is the last one.
        """
        check_is_fitted(self, "classes_")
        if name not in self.classes_.tolist():
            raise InvalidInput(f"there is no class {name!r} among the {len(self.classes_)} classes.")
        if len(self.classes_) == 1:
            raise InvalidInput(f"{name!r} is the only class; a classifier without classes cannot answer.")
        remaining = [tuple(label for label in row if label != name) for row in self.labels_]
        kept = [row for row, labels in enumerate(remaining) if labels]
        self.files_ = [self.files_[row] for row in kept]
        self.groups_ = None if self.groups_ is None else [self.groups_[row] for row in kept]
        self._condition(self.support_.features.rows(kept), [remaining[row] for row in kept])
        return self

    def save(self, folder: str | Path) -> None:
        """Write the model folder: it answers without the support photos, and holds the backbone.

        Raises:
            InvalidInput: a label is neither text nor a number, or the head cannot be saved.
        """
        check_is_fitted(self, "classes_")
        from fewsight.saved_classifier import pack

        write_model(folder, pack(self))

    @classmethod
    def load(
        cls, folder: str | Path, *, backbone: Any = None, device: str = "auto", precision: str = "auto"
    ) -> FewShotClassifier:
        """Read a model folder; the backbone is made when the first photo comes.

        Args:
            folder: what `save` wrote.
            backbone: only where the model was made with a `Backbone` of the caller's own class: that backbone.
            device, precision: of the backbone.

        Raises:
            InvalidInput: there is no model.
            IncompatibleModel: it is damaged, changed, or of an unknown version.
        """
        from fewsight.saved_classifier import unpack

        saved = read_model(folder, "classifier")
        try:
            return unpack(saved, cls, backbone=backbone, device=device, precision=precision)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IncompatibleModel(f"{folder} does not describe a classifier ({error}).") from error

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "trust_")


def _by_rows(function: Callable[[Features], Tensor], features: Features, columns: int) -> Tensor:
    """`function` on stretches of rows, joined: memory does not grow with the number of photos."""
    count = features.num_images
    parts = [function(features.rows(slice(start, start + ROWS))).detach() for start in range(0, count, ROWS)]
    return torch.cat(parts) if parts else torch.zeros(0, columns)
