"""`load_model`: a model folder becomes the classifier that wrote it."""

from __future__ import annotations

from pathlib import Path

from fewsight.classifier import FewShotClassifier

__all__ = ["load_model"]


def load_model(folder: str | Path, *, device: str = "auto", precision: str = "auto") -> FewShotClassifier:
    """The `FewShotClassifier` of a model folder, ready for photos.

    Raises:
        InvalidInput: there is no model.
        IncompatibleModel: it is damaged, changed, or of an unknown version.
    """
    return FewShotClassifier.load(folder, device=device, precision=precision)
