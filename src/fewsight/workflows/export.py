"""`fewsight export`: a model as an ONNX file that answers from pixels, with what a reader must know inside it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fewsight
from fewsight.backbones.architectures import with_image_size
from fewsight.backbones.backbone import Backbone
from fewsight.backbones.bundled import LARGEST, SMALLEST, BundledBackbone
from fewsight.backbones.loading import load_backbone
from fewsight.backbones.vit import RotaryBackbone
from fewsight.class_labels import as_plain
from fewsight.classifier import FewShotClassifier
from fewsight.errors import FewsightError, InvalidInput, RunExists
from fewsight.files import new_file
from fewsight.model import SavedModel, read_model
from fewsight.progress import quieted
from fewsight.seeding import torch_generator
from fewsight.workflows.onnx_file import check_installed, largest_difference, onnx_bytes
from fewsight.workflows.photo_graph import (
    Answers,
    PhotoGraph,
    Pixels,
    classifier_answers,
    linear_answers,
    vector_answers,
)

__all__ = ["TOLERANCE", "Export", "export"]

TOLERANCE = 1e-4  # between ONNX Runtime and torch, both in float32
TRACED = 2  # photos of the example; another number than 1, which broadcasts


@dataclass(frozen=True)
class Export:
    """What an export gave.

    Attributes:
        path: of the file; `bytes` is its size.
        inputs: in words, what the graph takes.
        outputs: name -> in words.
        difference: largest one between ONNX Runtime and torch, on random photos.
        sizes: image sizes (height, width) that this was measured on.
        remarks: sentences that a person should read.
    """

    path: Path
    bytes: int
    inputs: str
    outputs: dict[str, str]
    difference: float
    sizes: tuple[tuple[int, int], ...]
    remarks: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "file": str(self.path),
            "bytes": self.bytes,
            "input": self.inputs,
            "outputs": self.outputs,
            "difference": self.difference,
            "checked_sizes": [list(size) for size in self.sizes],
            "remarks": list(self.remarks),
        }

    def sentences(self) -> Iterator[str]:
        """The result in words."""
        yield from self.remarks
        yield f"{self.path}: {self.bytes / 1e6:.1f} MB. Takes {self.inputs}."
        for name, words in self.outputs.items():
            yield f"  {name}: {words}"
        sizes = " and ".join(f"{height} x {width}" for height, width in self.sizes)
        yield (
            f"ONNX Runtime gives what fewsight gives on photos of {sizes} pixels, in batches of 1, 2 and 5: largest "
            f"difference {self.difference:.0e}."
        )


@dataclass(frozen=True)
class _Source:
    """A model, ready to be traced; `told` becomes the file's metadata."""

    backbone: Backbone
    answers: Answers
    told: dict[str, Any]
    classes: list[str] | None
    remarks: tuple[str, ...] = ()


def export(
    model: str | Path,
    onnx: str | Path,
    *,
    image_size: int | None = None,
    pixels: Pixels = "uint8",
    force: bool = False,
    quiet: bool = False,
) -> Export:
    """Write a model as an ONNX file, and compare what ONNX Runtime makes of it with the model itself.

    Args:
        model: a model folder (or a run's folder with `model/` in it), or what `load_backbone` takes.
        onnx: the file.
        image_size: side in pixels; None for the model's. The bundled backbone takes any size from 64 to 384 all the
            same, others take this one alone.
        pixels: `uint8`: `[N, H, W, 3]`, RGB from 0 to 255; `float`: `[N, 3, H, W]` from 0 to 1.
        force: replace an existing file.

    Raises:
        FewsightError: ONNX is not installed, or the runtime's numbers differ.
        InvalidInput: there is no such model, or it has no form for other runtimes.
        RunExists: the file is there.
    """
    check_installed()
    path = Path(onnx)
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; give the name of a file, such as {path / 'model.onnx'}.")
    if path.exists() and not force:
        raise RunExists(f"{path} is there already: choose another name, or add --force to replace it.")
    with quieted(quiet):
        source = _read(model, image_size)
        graph = PhotoGraph(source.backbone, source.answers, pixels)
        sizes = _sizes(source.backbone)
        content = onnx_bytes(
            graph,
            _photos(TRACED, sizes[-1], pixels),
            output_names=source.answers.names,
            dynamic=_dynamic(source.backbone, pixels),
            metadata=_metadata(source, pixels),
            symbolic=isinstance(source.backbone, RotaryBackbone),
        )
        inputs = [_photos(count, size, pixels) for size in sizes for count in (1, 2, 5)]
        difference = largest_difference(content, graph, inputs)
        if not difference <= TOLERANCE:
            raise FewsightError(
                f"ONNX Runtime's numbers differ from fewsight's by {difference:.1e}, above {TOLERANCE:g}; nothing was "
                "written. Another version of onnxruntime or torch may agree."
            )
        with new_file(path) as file:
            file.write(content)
        inputs_told = _input_words(source.backbone, pixels)
        outputs = {name: _words(name, source) for name in source.answers.names}
        return Export(path, len(content), inputs_told, outputs, difference, sizes, source.remarks)


def _read(model: str | Path, image_size: int | None) -> _Source:
    folder = _model_folder(Path(model))
    if folder is None:
        backbone = load_backbone(model, image_size=image_size, device="cpu")
        return _checked(_Source(backbone, vector_answers(backbone), _of_backbone(backbone), None))
    saved = read_model(folder)
    if saved.kind == "classifier":
        return _checked(_classifier_source(folder, image_size))
    if saved.kind == "backbone":
        return _checked(_backbone_source(folder, saved, image_size))
    what = "segmenter" if saved.kind == "segmenter" else "head without a backbone"
    raise InvalidInput(
        f"{folder} holds a {what}; only classifiers and backbones have a form for other runtimes."
    )


def _model_folder(path: Path) -> Path | None:
    """The model folder itself, or `model/` in a run's folder; None where neither is there."""
    for place in (path, path / "model"):
        if (place / "model.json").is_file():
            return place
    return None


def _classifier_source(folder: Path, image_size: int | None) -> _Source:
    classifier = FewShotClassifier.load(folder, device="cpu", precision="fp32")
    if classifier.features_only:
        raise InvalidInput(
            f"{folder} was made from features, so it holds no backbone for pixels: make it from the photos."
        )
    backbone = classifier.photo_encoder().backbone
    remarks = []
    if image_size is not None and backbone.image_size != (image_size, image_size):
        remarks.append(
            f"The support photos were read at {_size(backbone)} pixels; at {image_size} the scores are others, and "
            "their calibration is no longer measured."
        )
        with_image_size(backbone, image_size)
    description = read_model(folder, "classifier").description
    told = {
        **_of_backbone(backbone),
        "head": description["head"],
        "calibration": description["calibration"],
        "licences": description["licences"],
        "provenance": description["provenance"],
    }
    if classifier.rejection_ is not None and math.isfinite(classifier.rejection_.value):
        told["novelty_above_which_none_of_these"] = classifier.rejection_.value
    classes = [str(label) for label in as_plain(classifier.classes_)]
    return _Source(backbone, classifier_answers(classifier), told, classes, tuple(remarks))


def _backbone_source(folder: Path, saved: SavedModel, image_size: int | None) -> _Source:
    backbone = load_backbone(folder, image_size=image_size, device="cpu")
    description, head = saved.description, saved.description.get("head")
    told = {**_of_backbone(backbone), "head": head, "provenance": description.get("provenance")}
    if head is not None and head.get("name") == "linear":
        answers = linear_answers(backbone, saved.tensors["head.weight"], saved.tensors["head.bias"])
        return _Source(backbone, answers, told, [str(name) for name in head["classes"]])
    remark = (
        f"{folder} knows no classes, so the file gives vectors. For answers make a classifier of it first: fewsight "
        f"predict SUPPORT PILE --backbone {folder} --out RUN, then fewsight export RUN/model."
    )
    return _Source(backbone, vector_answers(backbone), told, None, (remark,))


def _checked(source: _Source) -> _Source:
    if source.backbone.couples_images:
        raise InvalidInput(
            f"{source.backbone.name} lets photos of a batch change one another's features, which no file for one "
            "photo at a time can repeat."
        )
    if source.backbone.licence.commercial is not False:
        return source
    remark = f"The weights may not be used commercially: {source.backbone.licence.name}. The file says so."
    return _Source(source.backbone, source.answers, source.told, source.classes, (*source.remarks, remark))


def _of_backbone(backbone: Backbone) -> dict[str, Any]:
    return {
        "fewsight": fewsight.__version__,
        "backbone": backbone.name,
        "transform": backbone.transform.as_dict(),
        "licences": {"backbone weights": vars(backbone.licence)},
    }


def _size(backbone: Backbone) -> str:
    height, width = backbone.image_size
    return f"{height} x {width}"


def _sizes(backbone: Backbone) -> tuple[tuple[int, int], ...]:
    """Image sizes to compare at: the model's, and for the bundled backbone another one, of an odd shape."""
    own = backbone.image_size
    if not isinstance(backbone, BundledBackbone):
        return (own,)
    # the last one is traced: not 8 x 8 patches, whose positions are a table that would be taken for every size
    return (own, (SMALLEST + 35, SMALLEST + 48))


def _photos(count: int, size: tuple[int, int], pixels: Pixels) -> Tensor:
    random = torch_generator(0, "photos to compare an ONNX file with", count)
    photos = torch.randint(0, 256, (count, *size, 3), dtype=torch.uint8, generator=random)
    return photos if pixels == "uint8" else (photos.permute(0, 3, 1, 2).float() / 255).contiguous()


def _dynamic(backbone: Backbone, pixels: Pixels) -> dict[int, str]:
    if not isinstance(backbone, BundledBackbone):
        return {0: "N"}
    return {0: "N", 1: "H", 2: "W"} if pixels == "uint8" else {0: "N", 2: "H", 3: "W"}


def _metadata(source: _Source, pixels: Pixels) -> dict[str, str]:
    """One text for each subject: plain ones as they are, others as JSON."""
    told: dict[str, Any] = {**source.told, "input": _input_words(source.backbone, pixels)}
    if isinstance(source.backbone, BundledBackbone):
        told["sides"] = [SMALLEST, LARGEST]
    if source.classes is not None:
        told["classes"] = source.classes
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
        for key, value in told.items()
    }


def _input_words(backbone: Backbone, pixels: Pixels) -> str:
    size = f"{backbone.image_size[0]}, {backbone.image_size[1]}"
    free = isinstance(backbone, BundledBackbone)
    side = "H, W" if free else size
    form = (
        f"uint8 [N, {side}, 3], RGB, 0 to 255"
        if pixels == "uint8"
        else f"float32 [N, 3, {side}], RGB, 0 to 1"
    )
    sizes = f"; best at {_size(backbone)}, H and W from {SMALLEST} to {LARGEST}" if free else ""
    return f"photos: {form}, not normalised{sizes}"


def _words(name: str, source: _Source) -> str:
    columns = "" if source.classes is None else f"[N, {len(source.classes)}], "
    return {
        "scores": f"{columns}of the head, larger is more alike",
        "probabilities": f"{columns}calibrated, columns as `classes` in the file's metadata"
        if "novelty" in source.answers.names
        else f"{columns}softmax of the scores, columns as `classes` in the file's metadata",
        "novelty": "[N], larger is less like anything in the support",
        "vectors": f"[N, {source.backbone.vector_dim}], one vector a photo",
    }[name]
