"""`FewShotSegmenter` to and from a `SavedModel`: the one place that knows what stands in its model folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import fewsight
from fewsight.class_labels import as_plain, from_plain
from fewsight.errors import InvalidInput
from fewsight.heads.correlation_head import CorrelationHead
from fewsight.heads.correspondence import Correspondence
from fewsight.heads.head import Head
from fewsight.model import SavedModel
from fewsight.names import resolve
from fewsight.trained_heads import cst_settings
from fewsight.whole_photos import WholePhotoEncoder

if TYPE_CHECKING:
    from fewsight.segmenter import FewShotSegmenter

__all__ = ["pack", "unpack"]

_CORRESPONDENCE = (
    "tokens",
    "neighbours",
    "temperature",
    "fraction",
    "presence_level",
    "calibration_images",
)


def pack(segmenter: FewShotSegmenter) -> SavedModel:
    """Everything that `unpack` needs, as plain values and tensors.

    Raises:
        InvalidInput: a label is neither text nor a number, or the head is not one of fewsight's.
    """
    encoder, head = segmenter.photo_encoder(), segmenter.head_
    name, settings = _described(head)
    backbone = encoder.description()
    tensors = {f"conditioned.{key}": tensor for key, tensor in segmenter.conditioned_.state().items()}
    tensors |= {f"head.{key}": tensor for key, tensor in head.state_dict().items()}
    tensors |= {f"backbone.{key}": tensor for key, tensor in encoder.weights().items()}
    tensors |= {"support.membership": segmenter.membership_, "support.vectors": segmenter.support_vectors_}
    size = segmenter.image_size
    description = {
        "classes": as_plain(segmenter.classes_),
        "head": {"name": name, "settings": settings},
        "backbone": backbone,
        "settings": {
            "image_size": list(size) if isinstance(size, tuple) else size,
            "seed": segmenter.seed,
            "false_alarms": segmenter.false_alarms,
            "presence_threshold": segmenter.presence_threshold,
            "threshold": segmenter.threshold,
        },
        "support": {"files": segmenter.files_, "masked": segmenter.masked_},
        "licences": {
            "fewsight": {"name": "Apache-2.0", "commercial": True, "note": "the code"},
            "backbone weights": backbone["licence"],
        },
        "provenance": {"fewsight": fewsight.__version__, "torch": str(torch.__version__)},
    }
    return SavedModel("segmenter", description, tensors)


def unpack(
    saved: SavedModel, face: type[FewShotSegmenter], *, backbone: Any, device: str, precision: str
) -> FewShotSegmenter:
    """The segmenter that `pack` was given; its backbone is loaded when the first photo comes.

    Raises:
        InvalidInput, KeyError, TypeError, ValueError: the description or the tensors do not fit together.
    """
    told, tensors = saved.description, saved.tensors
    settings, size = told["settings"], told["settings"]["image_size"]
    segmenter = face(
        str(told["backbone"]["name"]) if backbone is None else backbone,
        str(told["head"]["name"]),
        image_size=tuple(size) if isinstance(size, list) else size,
        device=device,
        precision=precision,
        seed=int(settings["seed"]),
        false_alarms=settings["false_alarms"],
        presence_threshold=float(settings.get("presence_threshold", 0.5)),
        threshold=float(settings.get("threshold", 0.5)),
    )
    segmenter._check_settings()
    segmenter._encoder = WholePhotoEncoder(
        segmenter.backbone,
        segmenter.image_size,
        device,
        precision,
        told["backbone"],
        _below("backbone.", tensors),
    )
    segmenter.classes_ = from_plain(told["classes"])
    segmenter.membership_ = tensors["support.membership"].bool()
    segmenter.support_vectors_ = tensors["support.vectors"]
    segmenter.files_ = [str(name) for name in told["support"]["files"]]
    segmenter.masked_ = int(told["support"]["masked"])
    if segmenter.membership_.shape != (len(segmenter.files_), len(segmenter.classes_)):
        raise InvalidInput("the support does not fit its classes")
    head = _rebuilt(segmenter.head, told["head"]["settings"])
    head.load_state_dict(_below("head.", tensors))
    segmenter.head_ = head
    names = tuple(str(label) for label in segmenter.classes_.tolist())
    segmenter.conditioned_ = head.restore(names, _below("conditioned.", tensors))  # type: ignore[assignment]
    segmenter._set_presence()
    return segmenter


def _described(head: Head) -> tuple[str, dict[str, Any]]:
    """Name of a head and what its constructor takes; made again once, to be sure that it will be."""
    settings: dict[str, Any]
    if isinstance(head, Correspondence):
        settings = {key: getattr(head, key) for key in _CORRESPONDENCE}
        return "correspondence", settings | {"attention": head.request.attention}
    if isinstance(head, CorrelationHead):
        return "cst", cst_settings(head)
    raise InvalidInput(f"a head of type {type(head).__name__} cannot be saved; use correspondence or cst.")


def _rebuilt(name: str, settings: dict[str, Any]) -> Head:
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    head: Head = resolve("dense heads", name)(**plain)
    return head.eval()


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
