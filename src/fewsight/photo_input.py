"""What people give as X: photos in any form, or features; and photos through a backbone, for the faces."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy
import torch
from sklearn.utils.validation import check_consistent_length, column_or_1d, validate_data
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.description import describe, rebuild
from fewsight.backbones.encode import Encoder, encode_photos
from fewsight.backbones.feature_cache import FeatureCache, weights_digest
from fewsight.backbones.features import Features, concatenate
from fewsight.data.collection import Collection
from fewsight.data.file_names import display_name
from fewsight.data.loading import Outcome
from fewsight.data.transform import Transform
from fewsight.errors import IncompatibleModel, InvalidInput, UnreadableImage
from fewsight.heads.head import Head
from fewsight.heads.vectors import VectorHead

__all__ = ["PhotoEncoder", "as_features", "checked_labels", "file_names", "is_photos"]


def is_photos(X: Any) -> bool:
    """Whether X holds photos: a collection, or a sequence of paths, Pillow images or uint8 pictures.

    Raises:
        InvalidInput: X is one path or one picture, where a sequence is needed.
    """
    if isinstance(X, Collection):
        return True
    if isinstance(X, Features):
        return False
    if isinstance(X, (str, os.PathLike)):
        raise InvalidInput(f"X is one path, {display_name(X)!r}; give a list of paths.")
    if isinstance(X, (numpy.ndarray, Tensor)) and X.ndim == 4:
        if X.dtype not in (numpy.uint8, torch.uint8) or X.shape[-1] != 3:
            raise InvalidInput(
                f"X has shape {list(X.shape)} and dtype {X.dtype}; photos are uint8 [N, H, W, 3], features [N, D]."
            )
        return True
    if isinstance(X, numpy.ndarray) and (X.dtype.kind not in "OUS" or X.ndim != 1):
        return False
    first = _first(X)
    return isinstance(first, (str, os.PathLike)) or _is_picture(first)


def _first(X: Any) -> Any:
    """The first entry of a sequence (of a column, but not of a data frame), or None."""
    if not (isinstance(X, (Sequence, numpy.ndarray)) or getattr(X, "ndim", 0) == 1) or isinstance(X, Tensor):
        return None
    return next(iter(X), None)


def _is_picture(value: Any) -> bool:
    from PIL import Image

    return isinstance(value, Image.Image) or (
        isinstance(value, numpy.ndarray) and value.ndim == 3 and value.dtype == numpy.uint8
    )


def file_names(X: Any, files: Sequence[str] | None, count: int, *, start: int = 0) -> list[str]:
    """A name for each photo: as given, its path, or its number.

    Raises:
        InvalidInput: `files` has another length.
    """
    if files is not None:
        if len(files) != count:
            raise InvalidInput(f"files has {len(files)} names for {count} photos.")
        return [display_name(name) for name in files]
    if isinstance(X, Collection):
        return [X.file(index) for index in range(count)]
    named = isinstance(X, (list, tuple)) or (isinstance(X, numpy.ndarray) and X.ndim == 1)
    names = []
    for index in range(count):
        value = X[index] if named else None
        value = getattr(value, "filename", value)  # of a Pillow image
        path = value if isinstance(value, (str, os.PathLike)) else ""
        names.append(display_name(path) if path else f"photo {start + index + 1}")
    return names


def as_features(X: Any, estimator: Any, *, reset: bool = False) -> Features:
    """Numbers `[N, D]` as `Features`, checked as scikit-learn does; float64 stays, all else becomes float32.

    Args:
        X: an array, list of lists, data frame or tensor; `Features` pass.
        estimator: remembers the width where `reset`, and is asked for it otherwise.
        reset: whether this is `fit`.

    Raises:
        InvalidInput: not two axes, not finite, or another width than at `fit`.
    """
    if isinstance(X, Features):
        return X
    if isinstance(X, Tensor):
        X = X.detach().cpu().numpy()
    try:
        array = validate_data(estimator, X, reset=reset, dtype=[numpy.float64, numpy.float32])
    except ValueError as error:
        raise InvalidInput(str(error)) from error
    return Features(cls=torch.from_numpy(numpy.require(array, requirements=["C", "W"])))


def checked_labels(y: Any, count: int) -> Iterable[Any]:
    """y as it was given, or as one axis where it is an array, checked as scikit-learn does.

    Raises:
        InvalidInput: there is none, it has another length, or it holds measurements, not classes.
    """
    from sklearn.utils.multiclass import check_classification_targets

    if y is None:
        raise InvalidInput("FewShotClassifier requires y to be passed, but the target y is None.")
    try:
        if hasattr(y, "__array__") or (len(y) and all(isinstance(label, (int, float)) for label in y)):
            y = column_or_1d(y, warn=True)
            check_classification_targets(y)
        check_consistent_length(numpy.empty(count), y)
    except ValueError as error:
        raise InvalidInput(str(error)) from error
    return y


class PhotoEncoder:
    """Photos through a backbone, which is loaded when the first photo comes.

    Args:
        backbone: a name or path for `load_backbone`, or a `Backbone`.
        image_size: side in pixels, or None for the backbone's.
        device: where it runs.
        precision: number format.
        saved: what a model folder says of the backbone (`description`); another one is refused.
        weights: what the folder holds of it (`weights`); where it holds none, `backbone` is loaded and compared.
    """

    def __init__(
        self,
        backbone: Any,
        image_size: int | tuple[int, int] | None = None,
        device: str = "auto",
        precision: str = "auto",
        saved: dict[str, Any] | None = None,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        self.source, self.image_size, self.device, self.precision = backbone, image_size, device, precision
        self.saved, self._weights = saved, weights
        self._backbone: Backbone | None = backbone if isinstance(backbone, Backbone) else None
        self._encoder: Encoder | None = None
        self._checked = False

    @property
    def backbone(self) -> Backbone:
        """The network itself."""
        if self._backbone is None and self.saved is not None and self._weights:
            self._backbone = rebuild(self.saved, self._weights)
        if self._backbone is None:
            from fewsight.backbones.loading import load_backbone

            self._backbone = load_backbone(self.source, image_size=self.image_size)
        if self.saved is not None and not self._checked:
            self._check(self._backbone, self.saved)
        return self._backbone

    def features(self, photos: Any, head: Head) -> Features:
        """Features of photos in order, of the kind that `head` reads; those of a collection are kept in the cache.

        Raises:
            UnreadableImage: a photo cannot be decoded; the message names it.
        """
        sources = photos if isinstance(photos, Collection) else [_as_source(photo) for photo in photos]
        encoder = self.ready(head)
        parts = []
        with FeatureCache() as cache:
            kept = cache if isinstance(photos, Collection) else None
            for batch in encode_photos(encoder, sources, cache=kept):
                for outcome in batch.outcomes:
                    if not outcome.decoded:
                        raise _unusable(sources, outcome)
                if batch.features.num_images:
                    parts.append(batch.features)
        return concatenate(parts) if parts else encoder.nothing()

    def description(self) -> dict[str, Any]:
        """The backbone in plain words, for a model folder."""
        if self._backbone is None and self.saved is not None:
            return self.saved
        backbone = self.backbone
        return {
            "name": backbone.name,
            "pooling": backbone.pooling,
            "transform": backbone.transform.as_dict(),
            "licence": asdict(backbone.licence),
            **self._described(),
            "dim": backbone.dim,
            "weights_sha256": weights_digest(backbone),
        }

    def weights(self) -> dict[str, Tensor]:
        """The tensors that a model folder holds of the backbone; none where it cannot be made from plain data."""
        if self._backbone is None and self.saved is not None:
            return self._weights or {}
        return dict(self.backbone.state_dict()) if self._described() else {}

    def _described(self) -> dict[str, Any]:
        try:
            return describe(self.backbone)
        except InvalidInput:  # a Backbone of the caller's own class
            return {}

    def __getstate__(self) -> dict[str, Any]:
        # Pickles carry a name where there is one: the weights are loaded again.
        state = {**self.__dict__, "_encoder": None}
        return state if isinstance(self.source, Backbone) else {**state, "_backbone": None}

    def ready(self, head: Head) -> Encoder:
        """The backbone as an `Encoder` that gives what `head` reads."""
        vectors = isinstance(head, VectorHead) and head.pooling == self.backbone.pooling
        ready = self._encoder
        if ready is None or ready.request != head.request or ready.vectors != vectors:
            device = None if self.device == "auto" and isinstance(self.source, Backbone) else self.device
            ready = Encoder(
                self.backbone, head.request, precision=self.precision, device=device, vectors=vectors
            )
            self._encoder = ready
        return ready

    def _check(self, backbone: Backbone, saved: dict[str, Any]) -> None:
        if weights_digest(backbone) != saved["weights_sha256"]:
            raise IncompatibleModel(
                f"the weights of {backbone.name} here are not those that the model was made with: "
                "make the model again from its photos."
            )
        backbone.transform = Transform.from_dict(saved["transform"])
        self._checked = True


def _unusable(sources: Any, outcome: Outcome) -> UnreadableImage:
    name = file_names(sources, None, len(sources))[outcome.index]
    status = "refused" if outcome.status == "refused" else "unreadable"
    return UnreadableImage(
        f"{name} cannot be used: {outcome.note}. Leave it out, or replace it.", status=status
    )


def _as_source(photo: Any) -> Any:
    return photo.cpu().numpy() if isinstance(photo, Tensor) else photo
