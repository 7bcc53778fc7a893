"""`load_model`: a model folder becomes the face that wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewsight.model import read_model

__all__ = ["load_model"]


def load_model(folder: str | Path, *, device: str = "auto", precision: str = "auto") -> Any:
    """A `FewShotClassifier` or a `FewShotSegmenter`, ready for photos.

    Raises:
        InvalidInput: there is no model.
        IncompatibleModel: it is damaged, changed, or of an unknown version.
    """
    kind = read_model(folder).kind
    if kind == "segmenter":
        from fewsight.segmenter import FewShotSegmenter

        return FewShotSegmenter.load(folder, device=device, precision=precision)
    from fewsight.classifier import FewShotClassifier

    return FewShotClassifier.load(folder, device=device, precision=precision)
