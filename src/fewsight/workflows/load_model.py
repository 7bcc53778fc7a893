"""`load_model`: a model folder becomes the face that wrote it."""

from __future__ import annotations

from pathlib import Path

from fewsight.classifier import FewShotClassifier
from fewsight.model import read_model
from fewsight.segmenter import FewShotSegmenter

__all__ = ["load_model"]


def load_model(
    folder: str | Path, *, device: str = "auto", precision: str = "auto"
) -> FewShotClassifier | FewShotSegmenter:
    """The classifier or segmenter of a model folder, ready for photos.

    Raises:
        InvalidInput: there is no model.
        IncompatibleModel: it is damaged, changed, of an unknown version, or a trained backbone, which `load_backbone`
            reads.
    """
    if read_model(folder).kind == "segmenter":
        return FewShotSegmenter.load(folder, device=device, precision=precision)
    return FewShotClassifier.load(folder, device=device, precision=precision)
